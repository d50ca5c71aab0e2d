"""Writes the files in h5/, with h5py, NumPy and pickle: layouts that are found in the wild, and broken ones.

    python3 make_fixtures.py

Image 10 * (i + 1) is in row i. Features are i + region / 10 + column / 100, boxes [i, region, i + 10, region + 10].
"""

import base64
import pickle
from pathlib import Path

import h5py
import numpy as np

N, K, D = 3, 4, 5
OUT = Path(__file__).parent / "h5"
IDS = np.array([10, 20, 30])

features = (np.arange(N)[:, None, None] + np.arange(K)[:, None] / 10 + np.arange(D) / 100).astype(np.float32)
i, r = np.meshgrid(np.arange(N), np.arange(K), indexing="ij")
boxes = np.stack([i, r, i + 10, r + 10], 2).astype(np.float32)


def write(name, features=features, boxes=boxes, ids=IDS, **options):
    with h5py.File(OUT / name, "w") as f:
        f.create_dataset("image_features", data=features, **options)
        if boxes is not None:
            f.create_dataset("image_bb", data=boxes)
        if ids is not None:
            f.create_dataset("image_ids", data=ids)


OUT.mkdir(exist_ok=True)
write("f32.h5")
write("f16.h5", features.astype(np.float16))
write("f64.h5", features.astype(np.float64), boxes.astype(np.int32))
write("big_endian.h5", features.astype(">f4"), boxes.astype(">f8"), IDS.astype(">i8"))
write("chunked.h5", chunks=(1, K, D))
write("gzip.h5", chunks=(2, K, D), compression="gzip", shuffle=True)
# bfloat16: the upper half of a float32.
bf16 = h5py.h5t.IEEE_F32LE.copy()
bf16.set_fields(15, 7, 8, 0, 7)
bf16.set_size(2)
bf16.set_ebias(127)
with h5py.File(OUT / "bf16.h5", "w") as f:
    rounded = (features.view(np.uint32) + 0x8000) >> 16
    space = h5py.h5s.create_simple(features.shape)
    dataset = h5py.h5d.create(f.id, b"image_features", bf16, space)
    dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(rounded.astype("<u2")), mtype=bf16)
    f["image_bb"], f["image_ids"] = boxes, IDS
# Features and boxes are in another file, at other offsets.
with h5py.File(OUT / "external_link.h5", "w") as f:
    f["padding"] = np.full(2000, 7.0, np.float32)
    f["image_features"] = h5py.ExternalLink("f32.h5", "image_features")
    f["image_bb"] = h5py.ExternalLink("f32.h5", "image_bb")
    f["image_ids"] = IDS
with h5py.File(OUT / "userblock.h5", "w", userblock_size=512) as f:
    f["image_features"], f["image_bb"], f["image_ids"] = features, boxes, IDS

counts = [2, 4, 1]
ends = np.cumsum(counts)
pos = np.stack([ends - counts, ends], 1)
flat = lambda x: np.concatenate([x[i, :n] for i, n in enumerate(counts)])
for name, extra in [("adaptive.h5", pos), ("adaptive_outside.h5", pos + 1)]:
    write(name, flat(features), flat(boxes))
    with h5py.File(OUT / name, "a") as f:
        f["pos_boxes"] = extra
for name, extra in [("fraction", pos + [0, 0.7]), ("nan", pos * np.nan), ("negative", -pos)]:
    write(f"pos_boxes_{name}.h5", flat(features), flat(boxes))
    with h5py.File(OUT / f"pos_boxes_{name}.h5", "a") as f:
        f["pos_boxes"] = extra
# Small chunks, which no image's regions fill.
write("adaptive_gzip.h5", flat(features), flat(boxes), chunks=(3, 2), compression="gzip", compression_opts=9)
with h5py.File(OUT / "adaptive_gzip.h5", "a") as f:
    f.create_dataset("pos_boxes", data=pos.astype(">i4"), chunks=(1, 2), compression="gzip")
write("f16_chunked.h5", features.astype(np.float16), chunks=(1, K, D), compression="lzf")

for protocol in (0, 2, 4):
    write(f"pickle{protocol}.hdf5", ids=None)
    with open(OUT / f"pickle{protocol}_imgid2idx.pkl", "wb") as f:
        pickle.dump({int(id): row for row, id in reversed(list(enumerate(IDS)))}, f, protocol=protocol)

nan = features.copy()
nan[1, 2, 3] = np.nan
nan[2, 0, 0] = np.inf
write("nan.h5", nan)

write("no_boxes.h5", boxes=None)
write("no_ids.h5", ids=None)
write("twin_ids.h5", ids=np.array([10, 20, 10]))
write("few_ids.h5", ids=IDS[:2])
write("float_ids.h5", ids=IDS.astype(np.float64))
write("half_ids.h5", ids=IDS + 0.5)
write("negative_ids.h5", ids=-IDS)
write("text_ids.h5", ids=np.array([b"10", b"20", b"30"]))
write("rank1.h5", features.ravel(), boxes)
write("rank2_without_pos_boxes.h5", flat(features), flat(boxes))
write("box_mismatch.h5", boxes=boxes[:, :3])
write("text.h5", np.array([[[b"a"]]]), boxes)
write("no_regions.h5", features[:, :0], boxes[:, :0])
write("no_values.h5", features[:, :, :0])
sizes = np.array([[640, 480]] * N)
for name, values in [("negative", -sizes), ("nan", sizes * np.nan), ("fraction", sizes + 0.5), ("huge", sizes << 40)]:
    write(f"sizes_{name}.h5")
    with h5py.File(OUT / f"sizes_{name}.h5", "a") as f:
        f["image_sizes"] = values
# The other file is there for one, and not for the other: HDF5 reads zeros then.
for name, source in [("virtual.h5", "f32.h5"), ("virtual_missing.h5", "gone.h5")]:
    layout = h5py.VirtualLayout(features.shape, "f4")
    layout[:] = h5py.VirtualSource(source, "image_features", features.shape)
    write(name)
    with h5py.File(OUT / name, "a") as f:
        del f["image_features"]
        f.create_virtual_dataset("image_features", layout)
with h5py.File(OUT / "external_link_missing.h5", "w") as f:
    f["image_features"] = h5py.ExternalLink("gone.h5", "image_features")
    f["image_bb"], f["image_ids"] = boxes, IDS
write("empty.h5", features[:0], boxes[:0], IDS[:0])
with h5py.File(OUT / "other.h5", "w") as f:
    f["weights"] = features
(OUT / "bad.hdf5").write_bytes((OUT / "no_ids.h5").read_bytes())
(OUT / "bad_imgid2idx.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")


def tsv_row(image, count, lxmert=False):
    """Image 10 * (image + 1), with the same numbers as in the HDF5 files."""
    encode = lambda array: base64.b64encode(np.ascontiguousarray(array)).decode()
    arrays = [str(count), encode(boxes[image, :count]), encode(features[image, :count])]
    if not lxmert:
        return "\t".join([str(10 * (image + 1)), "640", "480"] + arrays)
    objects = encode(np.zeros(count, np.int64))
    name = f"COCO_val2014_{10 * (image + 1):012}"
    return "\t".join([name, "480", "640", objects, objects, objects, objects] + arrays)


fixed = [tsv_row(image, 4) for image in range(3)]
(OUT / "fixed.tsv").write_text("\n".join(fixed) + "\n")
(OUT / "adaptive.tsv").write_text("\n".join(tsv_row(image, n) for image, n in enumerate(counts)))
(OUT / "lxmert.tsv").write_text("\n".join(tsv_row(image, 4, lxmert=True) for image in range(3)) + "\n")
bad = [fixed[0], "10\t640", fixed[0], fixed[1][:-8], fixed[1], "x" + fixed[2][2:], "",
       fixed[2].replace("\t4\t", "\t5\t"), fixed[2], fixed[2].replace("30", "40", 1)[:-4] + "!!!="]
(OUT / "bad.tsv").write_text("\n".join(bad) + "\n")

# openvqa's folders of archives: x as [D, K], compressed or not; variants; and broken ones in a folder of their own.
variants = {
    "COCO_val2014_000000000010.jpg": lambda x: dict(x=x.T, bbox=boxes[0]),
    "COCO_val2014_000000000020": lambda x: dict(x=x.astype(np.float64), bbox=boxes[1].astype(np.float64)),
    "30": lambda x: dict(x=np.asfortranarray(x), bbox=np.asfortranarray(boxes[2])),
}
(OUT / "npz").mkdir(exist_ok=True)
for row, (name, arrays) in enumerate(variants.items()):
    save = [np.savez, np.savez_compressed, np.savez][row]
    save(OUT / "npz" / f"{name}.npz", image_w=640, image_h=480, num_bbox=K, **arrays(features[row]))
# As many numbers as regions: only the convention says which axis is which.
(OUT / "square_npz").mkdir(exist_ok=True)
np.savez(OUT / "square_npz" / "10.npz", x=features[0, :, :K].T, bbox=boxes[0])
np.savez(OUT / "square_npz" / "20.npz", x=np.asfortranarray(features[1, :, :K].T), bbox=boxes[1])
(OUT / "bad_npz").mkdir(exist_ok=True)
np.savez(OUT / "bad_npz" / "1.npz", x=features[0].T, bbox=boxes[0])
np.savez(OUT / "bad_npz" / "no_number.npz", x=features[0].T, bbox=boxes[0])
np.savez(OUT / "bad_npz" / "2.npz", x=features[0].T)
np.savez(OUT / "bad_npz" / "3.npz", x=features[0].T, bbox=boxes[0, :3])
np.savez(OUT / "bad_npz" / "4.npz", x=features[0].T.astype(complex), bbox=boxes[0])
np.savez(OUT / "bad_npz" / "5.npz", x=nan[1].T, bbox=boxes[0])
np.savez(OUT / "bad_npz" / "7.npz", x=features[0, :, :3].T, bbox=boxes[0])
(OUT / "bad_npz" / "6.npz").write_bytes((OUT / "bad_npz" / "1.npz").read_bytes()[:-40])
(OUT / "bad_npz" / "notes.txt").write_text("not an archive")

# Sizes that no file can have.
hostile = lambda name, **kwargs: f.create_dataset(name, (1 << 40, K, D), "f4", **kwargs)
with h5py.File(OUT / "never_written.h5", "w") as f:
    hostile("image_features", chunks=(1, K, D))
with h5py.File(OUT / "never_allocated.h5", "w") as f:
    hostile("image_features")
with h5py.File(OUT / "many_ids.h5", "w") as f:
    f["image_features"], f["image_bb"] = features, boxes
    f.create_dataset("image_ids", (1 << 44,), "i8", chunks=(4,))
