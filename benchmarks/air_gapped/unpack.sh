# To be sourced by bash on the machine without an index, once packages.tar.xz and cuda.so.xz lie beside this file:
#
#   . FOLDER/unpack.sh [TARGET]
#
# Python then finds the packages in TARGET (default: ~/.cache/air-gapped), and the smp-deploy of the working directory.
# ONNX Runtime finds the CUDA and cuDNN libraries that PyTorch's packages bring. What was unpacked before is kept:
# remove TARGET to unpack another version.

air_gapped_from=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
air_gapped_to=${1:-$HOME/.cache/air-gapped}
mkdir -p "$air_gapped_to"
if [ ! -e "$air_gapped_to/onnxruntime" ]; then
  tar --extract --xz --file "$air_gapped_from/packages.tar.xz" --directory "$air_gapped_to"
fi
air_gapped_library=$air_gapped_to/onnxruntime/capi/libonnxruntime_providers_cuda.so
if [ ! -e "$air_gapped_library" ] && [ -e "$air_gapped_from/cuda.so.xz" ]; then
  # Under another name first: one that was cut would be taken for whole.
  xz --decompress --stdout "$air_gapped_from/cuda.so.xz" >"$air_gapped_library.part" &&
    mv "$air_gapped_library.part" "$air_gapped_library"
fi
export PYTHONPATH=$PWD:$air_gapped_to${PYTHONPATH:+:$PYTHONPATH}
air_gapped_cuda=$(python3 - <<'PYTHON'
from importlib.util import find_spec
from pathlib import Path

found = find_spec("torch")
packages = Path(found.origin).parents[1] / "nvidia" if found and found.origin else Path("nvidia")
print(":".join(sorted({str(library.parent) for library in packages.glob("**/lib*.so*")})))
PYTHON
)
export LD_LIBRARY_PATH=$air_gapped_cuda${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
unset air_gapped_from air_gapped_to air_gapped_library air_gapped_cuda
