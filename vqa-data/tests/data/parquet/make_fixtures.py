"""Makes the Parquet files of the tests as Hugging Face's `datasets` writes them: needs pyarrow and Pillow.

    python make_fixtures.py
"""

import io
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

HERE = pathlib.Path(__file__).parent


def picture(colour):
    data = io.BytesIO()
    Image.new("RGB", (4, 3), colour).save(data, "PNG")
    return data.getvalue()


RED, BLUE = picture((255, 0, 0)), picture((0, 0, 255))
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

# As Graphcore/vqa and lmms-lab's datasets: the picture again with each of its questions.
questions = pa.table(
    {
        "image": pa.array(
            [
                {"bytes": RED, "path": "COCO_val2014_000000000042.png"},
                {"bytes": RED, "path": "COCO_val2014_000000000042.png"},
                {"bytes": BLUE, "path": None},
            ],
            IMAGE,
        ),
        "question": ["What color is it?", "Is it red?", "How many?"],
        "question_id": pa.array([420, 421, 70], pa.int64()),
        "answers": pa.array([["red", "Red.", "pink"], ["yes"], ["2"]], pa.list_(pa.string())),
        "score": pa.array([1.0, 2.0, None], pa.float32()),
    }
)
pq.write_table(questions, HERE / "validation-00000-of-00001.parquet", compression="snappy", row_group_size=2)

# Answers as in VQAv2 of Hugging Face, and compressed in the other way that is common without C.
answers = pa.list_(pa.struct([("answer", pa.string()), ("answer_id", pa.int64())]))
vqa2 = pa.table(
    {
        "image": pa.array([{"bytes": BLUE, "path": "x/7.png"}], IMAGE),
        "question": ["What color?"],
        "answers": pa.array([[{"answer": "blue", "answer_id": 1}, {"answer": "navy", "answer_id": 2}]], answers),
    }
)
pq.write_table(vqa2, HERE / "train_gzip.parquet", compression="gzip")

# Names of pictures that are elsewhere; a table without pictures; bytes that are none; other compression.
names = pa.table({"image": ["7.png"], "question": ["What?"], "answer": ["blue"]})
pq.write_table(names, HERE / "names.parquet")
pq.write_table(names.drop_columns(["image"]), HERE / "no_image.parquet")
text = pa.table({"image": pa.array([{"bytes": b"text", "path": None}], IMAGE), "question": ["What?"], "answer": ["a"]})
pq.write_table(text, HERE / "no_picture.parquet")
pq.write_table(names, HERE / "zstd.parquet", compression="zstd")
