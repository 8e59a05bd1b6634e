#!/usr/bin/env bash
# Packs what a GPU machine without a package index lacks; run where there is an index. See usage below.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: pack.sh [-a ARCHITECTURE] [-p PYTHON] [-r VERSION] [-o FOLDER] [PACKAGE...]

Writes into FOLDER, for a machine with PyTorch for CUDA and cuda-bindings, x86-64 and glibc:
  packages.tar.xz  ONNX Runtime without its CUDA library, msgspec, pillow and every PACKAGE, without their dependencies
  cuda.so.xz       ONNX Runtime's CUDA library with the kernels of one architecture
  unpack.sh        to be sourced there

  -a ARCHITECTURE  compute capability without its dot (default: 90, of H100 and H200)
  -p PYTHON        version of the machine's Python (default: 3.12)
  -r VERSION       of onnxruntime-gpu (default: 1.31.1)
  -o FOLDER        default: build/air-gapped
USAGE
}

architecture=90 python=3.12 release=1.31.1 folder=build/air-gapped
while getopts a:p:r:o:h option; do
  case $option in
    a) architecture=$OPTARG ;;
    p) python=$OPTARG ;;
    r) release=$OPTARG ;;
    o) folder=$OPTARG ;;
    h) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
done
shift $((OPTIND - 1))

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
site=$work/site capi=$work/site/onnxruntime/capi
mkdir -p "$folder" "$site"

python3 -m pip download --quiet --no-deps --only-binary=:all: --dest "$work/wheels" \
  --implementation cp --python-version "$python" \
  --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
  "onnxruntime-gpu==$release" msgspec pillow "$@"
for wheel in "$work"/wheels/*.whl; do
  python3 -m zipfile -e "$wheel" "$site"
done

# The CUDA library is by far the largest file: it travels alone, pruned.
python3 "$here/prune_fatbins.py" "$capi/libonnxruntime_providers_cuda.so" "$work/cuda.so" "$architecture"
rm "$capi/libonnxruntime_providers_cuda.so"
# Neither the C library, nor TensorRT's provider, nor the tools for models have a part in inference from Python.
rm -rf "$capi"/libonnxruntime.so* "$capi"/libonnxruntime_providers_tensorrt* \
  "$site"/onnxruntime/{transformers,tools,quantization,datasets}

xz --threads=0 -3 --stdout "$work/cuda.so" >"$folder/cuda.so.xz"
tar --create --directory "$site" . | xz --threads=0 -6 --stdout >"$folder/packages.tar.xz"
cp "$here/unpack.sh" "$folder/"
ls -lh "$folder"
