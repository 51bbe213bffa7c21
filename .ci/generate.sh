#!/bin/sh
# Generates the Python stubs into the folder $1, with the generator that is first on PATH (see `make generate`).
set -eu
out=$1
python -m grpc_tools.protoc -I proto --python_out="$out" --mypy_out=quiet:"$out" proto/zoomgate/v1/*.proto
python -m grpc_tools.protoc -I proto --grpc_python_out="$out" --mypy_grpc_out=quiet:"$out" proto/zoomgate/v1/*_service.proto
