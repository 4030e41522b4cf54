#!/usr/bin/env bash
# Debian's newest SLURM beside that of the machine, for the tests: newest.sh FOLDER, then `PROGRAMS=FOLDER/programs up.sh …`.
#
# It is linked against a newer C library, so it comes with all of its libraries, as Apptainer does (apptainer.sh);
# nothing is installed but patchelf. Sid changes from day to day: where its SLURM cannot be had, or does not run, it is
# that of trixie; RELEASE names one release. Run again, it does nothing.
set -euo pipefail
folder=$(realpath -m "${1:?usage: newest.sh FOLDER}")
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
daemons=(slurmctld slurmd slurmdbd slurmstepd)
clients=(srun sbatch salloc scancel squeue sinfo sacct sacctmgr scontrol sshare sstat sdiag)

fail() { printf 'error: %s\n  remedy: %s\n' "$1" "$2" >&2; exit 1; }
[ -f "$folder/complete" ] && exit 0
if [ -z "${RELEASE:-}" ]; then
    for release in sid trixie; do
        RELEASE=$release "$0" "$folder" && exit 0
        echo "Debian's $release gives no SLURM that runs here (see above)" >&2
    done
    fail "neither sid nor trixie gives a SLURM that runs here" "RELEASE=NAME names another release of Debian"
fi

[ ! -e "$folder" ] || [ -d "$folder/programs" ] || fail "$folder is not a folder of this script" "name one that is not there"
if ! command -v patchelf > /dev/null; then
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends patchelf > /dev/null
fi
rm -rf "$folder"
work=$folder/work
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$folder/programs"
chmod -R a+rX "$folder"
: > "$work/status" # nothing is there yet: every library comes along
# Where the machine's own packages come from, the newer ones come from too.
mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
    awk '$2 == "bookworm" && $3 == "main" { print $1; exit }')
[ -n "$mirror" ] || fail "no source of Debian 12's packages is known to apt" "name one in /etc/apt/sources.list.d"
echo "deb [signed-by=$keyring] $mirror $RELEASE main" > "$work/sources.list"
apt=(apt-get -qq -o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=- -o "Dir::State::Lists=$work/lists"
    -o "Dir::Cache=$work/cache" -o "Dir::State::status=$work/status" -o APT::Sandbox::User=root -o Acquire::Languages=none
    -o Acquire::Check-Valid-Until=false) # a mirror may be some weeks behind; what it signs is checked as ever
"${apt[@]}" update
"${apt[@]}" install -y --download-only --no-install-recommends \
    slurmctld slurmd slurm-client slurmdbd slurm-wlm-mysql-plugin munge > /dev/null
for package in "$work"/cache/archives/*.deb; do dpkg -x "$package" "$folder"; done
rm -rf "$work"
libraries=$folder/usr/lib/x86_64-linux-gnu
for name in "${daemons[@]}" "${clients[@]}" munged munge unmunge; do
    for program in "$folder"/usr/{sbin,bin}/"$name"{-wlm,}; do [ -f "$program" ] && break; done
    [ -f "$program" ] || fail "the packages of $RELEASE have no $name" "RELEASE=trixie"
    patchelf --set-interpreter "$libraries/ld-linux-x86-64.so.2" "$program"
    # A plain runpath does not reach what the libraries, and the plugins, themselves need.
    patchelf --force-rpath --set-rpath "$libraries:$libraries/slurm-wlm" "$program"
    ln -sfn "$program" "$folder/programs/$name"
done
"$folder/programs/slurmctld" -V
touch "$folder/complete"
