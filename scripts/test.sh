#!/bin/sh
# make test. Kernel tests skip with the reason where this machine takes no BPF; VM tests never skip.
set -eu
cd "$(dirname "$0")/.."
scripts/kernels.sh
scripts/openssl11.sh
scripts/go_toolchains.sh
scripts/programs.sh
scripts/peers.sh
exec .venv/bin/python -m pytest "$@" </dev/null
