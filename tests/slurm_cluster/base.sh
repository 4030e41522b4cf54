#!/usr/bin/env bash
# The base of the CPU images, as a folder: base.sh FOLDER. Debian 12 with its Python 3.11, from the machine's own mirror.
set -euo pipefail
folder=${1:?usage: base.sh FOLDER}
# Another script makes another base.
made_by=$(sha256sum < "$0")
[ "$(cat "$folder/etc/safe-llava-base" 2> /dev/null)" = "$made_by" ] && exit 0
mkdir -p "$(dirname "$folder")"
work=$folder.part
rm -rf "$work"
mmdebstrap --quiet --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$work"
# Nobody makes devices in a user namespace.
rm -rf "$work/dev"
mkdir "$work/dev"
echo "$made_by" > "$work/etc/safe-llava-base"
rm -rf "$folder"
mv "$work" "$folder"
