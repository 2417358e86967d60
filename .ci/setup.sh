#!/bin/sh
# Make .venv with exactly the versions of requirements.lock, once; `make demo` and `make test` call it.
# Needs a Python >= 3.12 somewhere, or uv (which can fetch one).
set -eu
cd "$(dirname "$0")/.."

stamp=.venv/.installed
want=$(cat requirements.lock pyproject.toml | cksum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want $PWD" ]; then
    exit 0
fi

fits() { "$1" -c 'import sys; raise SystemExit(not (3, 12) <= sys.version_info[:2] < (3, 15))' >/dev/null 2>&1; }

find_python() {
    for candidate in ${PYTHON:-} python3.12 python3.13 python3.14 python3 python \
        "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[234]*/bin/python; do
        if fits "$candidate"; then
            echo "$candidate"
            return
        fi
    done
}

rm -rf .venv
python=$(find_python)
if [ -n "$python" ]; then
    echo "setting up .venv with $($python --version) (a few minutes, once)"
    "$python" -m venv .venv || { echo "error: $python has no venv module; install python3-venv, or uv" >&2; exit 1; }
    .venv/bin/python -m pip install --quiet --disable-pip-version-check uv
    uv="$PWD/.venv/bin/uv"
elif command -v uv >/dev/null 2>&1; then
    echo "setting up .venv with uv's Python 3.12 (a few minutes, once)"
    uv venv --quiet --python 3.12 .venv
    uv=uv
else
    echo "error: no Python >= 3.12 found; install Python 3.12 or uv, or set PYTHON=/path/to/python3.12" >&2
    exit 1
fi
# The lock is complete, so nothing is resolved: xgboost's NVIDIA wheel (345 MB), of no use on CPUs, stays out,
# and rfc3987-syntax, with which every import of jsonschema builds a grammar for 4 seconds, in each worker too.
# Bytecode is compiled now, else every Dask worker compiles all it imports at every start.
"$uv" pip install --quiet --python .venv/bin/python --compile-bytecode --no-deps -r requirements.lock
"$uv" pip install --quiet --python .venv/bin/python --no-deps --editable .
echo "$want $PWD" >"$stamp"
