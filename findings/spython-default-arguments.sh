#!/usr/bin/env bash
# spython 0.3.14: CMD beside ENTRYPOINT holds default arguments, which Docker drops as soon as the user gives others.
# The converted definition file joins both in its runscript and puts the user's arguments behind the defaults, so that a
# container image that runs well without arguments does something else with them. Run it without arguments; it installs
# the published package into a temporary folder, and fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" -q install spython==0.3.14
cd "$work"
cat > Dockerfile << 'DOCKERFILE'
FROM debian:12-slim
ENTRYPOINT ["echo", "score"]
CMD ["--edition", "v1"]
DOCKERFILE
venv/bin/pip list --format freeze 2> /dev/null | grep -i '^spython'
venv/bin/spython recipe Dockerfile > converted.def
sed -n '/^%runscript/,/^%/{/^%/!p}' converted.def > runscript
said=$(sh runscript --edition v2)
echo "Docker runs:        score --edition v2"
echo "the runscript runs: $said"
[ "$said" = "score --edition v1 --edition v2" ]
