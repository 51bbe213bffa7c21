#!/bin/sh
# Generate the Python stubs into the directory $1, using the grpc_tools of the first Python on PATH (see `make generate`).
set -eu
out=$1
python -m grpc_tools.protoc -I proto --python_out="$out" --mypy_out=quiet:"$out" proto/zoomgate/v1/*.proto
python -m grpc_tools.protoc -I proto --grpc_python_out="$out" --mypy_grpc_out=quiet:"$out" proto/zoomgate/v1/*_service.proto
