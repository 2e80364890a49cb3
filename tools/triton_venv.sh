#!/usr/bin/env bash
# Makes a virtual environment with tritonclient, for the tests that compare us with Triton's own client.
#
#   tools/triton_venv.sh .venv-triton
#
# Apart from ours, and without tritonclient's own requirements: it asks for an older protobuf and would take grpcio back,
# and its messages cannot share a process with ours. It works on the versions below. A second run installs nothing.
set -euo pipefail

folder="${1:?usage: tools/triton_venv.sh FOLDER}"
packages=(
  grpcio==1.85.1 protobuf==7.36.2 'numpy>=2.1' 'ml_dtypes>=0.4,<=0.5.4' 'python-rapidjson>=1.20' 'packaging>=24'
  'urllib3>=2' 'typing_extensions>=4' 'geventhttpclient>=2.3'
)
client=tritonclient==2.73.0

wanted="$client ${packages[*]}"
if [[ -x "$folder/bin/python" && "$(cat "$folder/.installed" 2>/dev/null)" == "$wanted" ]]; then
  exit 0
fi
"${PYTHON:-python3}" -m venv --clear "$folder"
pip=("$folder/bin/python" -m pip install --quiet --disable-pip-version-check)
"${pip[@]}" "${packages[@]}"
"${pip[@]}" --no-deps "$client"
printf '%s' "$wanted" >"$folder/.installed"
