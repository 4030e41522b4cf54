#!/usr/bin/env bash
# The base of the CPU images, as a folder: base.sh FOLDER. Debian 12 with its Python 3.11, from the machine's own mirror.
set -euo pipefail
folder=${1:?usage: base.sh FOLDER}
[ -f "$folder/etc/debian_version" ] && exit 0
work=$folder.part
rm -rf "$work"
mmdebstrap --quiet --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$work"
# Nobody makes devices in a user namespace.
rm -rf "$work/dev"
mkdir "$work/dev"
mv "$work" "$folder"
