# Sourced by ./demo, ./test and .ci/run: `prepare_environment EXTRAS` makes .venv (if there is none) and installs the
# checkout into it, editable, with those extras. A stamp named after the extras and pyproject.toml's checksum makes every
# later call a no-op until the dependencies change. Needs bash, a Python from 3.11 on and pip's package index; no root.

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11 python; do
        if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return 0
        fi
    done
    echo "graphc needs Python 3.11 or later; set PYTHON to one" >&2
    return 1
}

prepare_environment() {
    local extras="$1" bin=.venv/bin stamp python
    stamp=".venv/.installed-${extras//,/-}-$(cksum < pyproject.toml | tr ' ' '-')"
    if [ ! -e "$stamp" ]; then
        if ! "$bin/python" -m pip --version >/dev/null 2>&1; then
            python="$(find_python)"
            echo "creating .venv with $("$python" --version)" >&2
            "$python" -m venv --clear .venv || {
                echo "could not create .venv (on Debian and Ubuntu: install python3-venv, or set PYTHON)" >&2
                return 1
            }
        fi
        echo "installing graphc into .venv (once; about a minute)" >&2
        "$bin/python" -m pip install --quiet --disable-pip-version-check --editable ".${extras:+[$extras]}"
        touch "$stamp"
    fi
    PATH="$PWD/.venv/bin:$PATH"
    export PATH
}
