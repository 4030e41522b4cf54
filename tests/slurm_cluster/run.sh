#!/usr/bin/env bash
# The tests that need a cluster, side by side on one: run.sh FOLDER_OF_PYTHON. The cluster is down when they end.
set -euo pipefail
cd "$(dirname "$0")/../.."
bin=${1:?usage: run.sh FOLDER_OF_PYTHON}
if [ -z "${SAFE_LLAVA_CLUSTER:-}${CI:-}" ]; then
    echo "skipped: the test cluster writes outside the clone (packages, /var) and needs root" >&2
    echo "  to run it on a throw-away machine: SAFE_LLAVA_CLUSTER=1 make test-cluster" >&2
    exit 0
fi
# What the demo through the cluster is compared with; nothing is done again that is done.
"$bin/python" -m safe_llava.demo.run
# Daemons need a path that all users may enter.
SAFE_LLAVA_CLUSTER_FOLDER=$(mktemp -d /tmp/safe-llava-cluster.XXXXXX)
export SAFE_LLAVA_CLUSTER_FOLDER
newest=$SAFE_LLAVA_CLUSTER_FOLDER.newest
trap 'kill $(jobs -p) 2> /dev/null || true
    for folder in "$SAFE_LLAVA_CLUSTER_FOLDER" "$newest"; do tests/slurm_cluster/down.sh "$folder"; rm -rf "$folder"; done' EXIT
# The images, on CPUs; they are kept in the clone, and made again when what goes into them changes.
tests/slurm_cluster/apptainer.sh
tests/slurm_cluster/base.sh "$PWD/containers/images/base"
export SAFE_LLAVA_CLUSTER_IMAGES=$SAFE_LLAVA_CLUSTER_FOLDER/images.yaml
echo "images: {wheels: cpu, base: $PWD/containers/images/base, folder: $PWD/containers/images}" > "$SAFE_LLAVA_CLUSTER_IMAGES"
export APPTAINER_MKSQUASHFS_ARGS="-comp zstd -Xcompression-level 3"
tests/slurm_cluster/build-as-root.sh "$bin/snakemake" --nolock images --configfile "$SAFE_LLAVA_CLUSTER_IMAGES"
tests/slurm_cluster/up.sh "$SAFE_LLAVA_CLUSTER_FOLDER"
# Debian's newest SLURM beside that of the machine, with cgroups where they can be made.
tests/slurm_cluster/newest.sh /opt/slurm-newest
CGROUPS=auto PORT=27800 PROGRAMS=/opt/slurm-newest/programs tests/slurm_cluster/up.sh "$newest"
# The demo is one test of many parts, beside all others; most of these is waiting.
demo=tests/slurm_cluster/test_demo.py
overhead=tests/slurm_cluster/test_overhead.py # it takes the time, so it runs alone
said=$SAFE_LLAVA_CLUSTER_FOLDER/demo.log
"$bin/python" -m pytest -q -m cluster "$demo" > "$said" 2>&1 &
running=$!
failed=0
said_newest=$newest/faults.log
SAFE_LLAVA_CLUSTER_FOLDER=$newest "$bin/python" -m pytest -q -n 2 -m "cluster and newest" tests/slurm_cluster > "$said_newest" 2>&1 &
running_newest=$!
"$bin/python" -m pytest -q -n "${SAFE_LLAVA_CLUSTER_TESTS:-5}" -m cluster --ignore "$demo" --ignore "$overhead" \
    tests/slurm_cluster tests/containers || failed=1
echo "waiting for the demo, and for the newest SLURM"
wait "$running" || failed=1
wait "$running_newest" || failed=1
cat "$said" "$said_newest"
"$bin/python" -m pytest -q -m cluster "$overhead" || failed=1
exit "$failed"
