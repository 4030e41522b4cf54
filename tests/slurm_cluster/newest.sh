#!/usr/bin/env bash
# Debian's newest SLURM beside that of the machine, for the tests: newest.sh FOLDER, then `PROGRAMS=FOLDER/programs up.sh …`.
#
# It is linked against a newer C library, so it comes with all of its libraries, as Apptainer does (apptainer.sh);
# nothing is installed but patchelf. Run again, it does nothing.
set -euo pipefail
folder=${1:?usage: newest.sh FOLDER}
release=${RELEASE:-sid}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
daemons=(slurmctld slurmd slurmdbd slurmstepd)
clients=(srun sbatch salloc scancel squeue sinfo sacct sacctmgr scontrol sshare sstat sdiag)

[ -f "$folder/complete" ] && exit 0
if ! command -v patchelf > /dev/null; then
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends patchelf > /dev/null
fi
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
work=$folder/work
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$folder/programs"
chmod -R a+rX "$folder"
: > "$work/status" # nothing is there yet: every library comes along
# Where the machine's own packages come from, the newer ones come from too.
mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
    awk '$2 == "bookworm" && $3 == "main" { print $1; exit }')
echo "deb [signed-by=$keyring] ${mirror:?no source of Debian 12 packages is known to apt} $release main" > "$work/sources.list"
apt=(apt-get -qq -o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=- -o "Dir::State::Lists=$work/lists"
    -o "Dir::Cache=$work/cache" -o "Dir::State::status=$work/status" -o APT::Sandbox::User=root -o Acquire::Languages=none)
"${apt[@]}" update
"${apt[@]}" install -y --download-only --no-install-recommends \
    slurmctld slurmd slurm-client slurmdbd slurm-wlm-mysql-plugin munge > /dev/null
for package in "$work"/cache/archives/*.deb; do dpkg -x "$package" "$folder"; done
rm -rf "$work"
libraries=$folder/usr/lib/x86_64-linux-gnu
for name in "${daemons[@]}" "${clients[@]}" munged munge unmunge; do
    for program in "$folder"/usr/{sbin,bin}/"$name"{-wlm,}; do [ -f "$program" ] && break; done
    patchelf --set-interpreter "$libraries/ld-linux-x86-64.so.2" "$program"
    # A plain runpath does not reach what the libraries, and the plugins, themselves need.
    patchelf --force-rpath --set-rpath "$libraries:$libraries/slurm-wlm" "$program"
    ln -sfn "$program" "$folder/programs/$name"
done
touch "$folder/complete"
"$folder/programs/slurmctld" -V
