#!/usr/bin/env bash
# A real SLURM of emulated nodes on this one machine, for the tests: up.sh FOLDER, then `. FOLDER/env.sh`; down.sh ends it.
#
# Needs root and Debian's slurm-wlm, munge, slurmdbd and mariadb-server; they are installed only where that was
# asked for (SAFE_LLAVA_CLUSTER=1, or CI), for it writes outside the clone. Everything else lies in FOLDER.
# No systemd and no cgroups are needed. Knobs: CPUS, MEMORY (MB a node), GPUS, GPU_TYPE, TRES, PORT, ACCOUNTING (1|0); CGROUPS (1|0|auto: where
# the machine lets them be made) keeps jobs apart by them, as clusters do; PROGRAMS, the folder of another SLURM's (newest.sh).
set -euo pipefail
folder=${1:?usage: up.sh FOLDER}
nodes=8 cpus=${CPUS:-8} memory=${MEMORY:-16000} gpus=${GPUS:-6} port=${PORT:-26800} accounting=${ACCOUNTING:-1}
gpu_type=${GPU_TYPE:-h200} # what the fake GPUs call themselves
tres=${TRES-gres/gpu,gres/gpu:$gpu_type} # what the accounting counts
programs=${PROGRAMS:-/usr/bin} plugins="" stepd=""
if [ -n "${PROGRAMS:-}" ]; then
    export PATH=$PROGRAMS:$PATH
    plugins=PluginDir=$PROGRAMS/../usr/lib/x86_64-linux-gnu/slurm-wlm
    stepd="-d $PROGRAMS/slurmstepd"
fi
packages=(slurm-wlm munge slurmdbd mariadb-server)

fail() { printf 'error: %s\n  remedy: %s\n' "$1" "$2" >&2; exit 1; }
[ "$(id -u)" = 0 ] || fail "the test cluster needs root" "run it in a throw-away machine or container as root"
export PATH=$PATH:/usr/sbin:/sbin
needed=(slurmctld slurmd munged)
[ "$accounting" = 0 ] || needed+=(slurmdbd mariadbd)
# `command -v` of several names succeeds where one of them is there.
missing=$(for name in "${needed[@]}"; do command -v "$name" > /dev/null || echo "$name"; done)
if [ -n "$missing" ]; then
    [ -n "${SAFE_LLAVA_CLUSTER:-}${CI:-}" ] || fail "SLURM is not installed" "SAFE_LLAVA_CLUSTER=1 lets this script install ${packages[*]}"
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${packages[@]}" > /dev/null
fi

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
cd "$folder"
chmod 755 .
mkdir -p etc run log state/controller dev bin
chmod 755 run
host=$(hostname -s)
first=$((port + 101))
# No number of a job is that of another cluster's beside this one: processes, cgroups and ports of trainings go by it.
first_job=$((port > 26800 ? port - 26799 : 1))
names="n[1-$nodes]"
socket=$folder/run/munge.sock
sql=$folder/run/sql/socket

wait_for() { # WHAT SECONDS COMMAND…
    local what=$1 seconds=$2
    shift 2
    for _ in $(seq $((seconds * 5))); do
        if "$@" > /dev/null 2>&1; then return; fi
        sleep 0.2
    done
    tail -n 20 log/*.log >&2
    fail "$what did not come up in $seconds s" "read the logs in $folder/log"
}

# --- munge: how the daemons know each other
[ -s etc/munge.key ] || (umask 077 && head -c 1024 /dev/urandom > etc/munge.key)
chmod 400 etc/munge.key
munged --key-file="$folder/etc/munge.key" --socket="$socket" --pid-file="$folder/run/munged.pid" \
    --log-file="$folder/log/munged.log" --seed-file="$folder/run/munged.seed"
wait_for munged 10 sh -c "munge -n -S $socket | unmunge -S $socket"

# --- fake GPUs: slurmd wants a character device each, and makes CUDA_VISIBLE_DEVICES from the number at its end
for gpu in $(seq 0 $((gpus - 1))); do ln -sfn /dev/null "dev/nvidia$gpu"; done

# --- configuration
if [ "$accounting" = 1 ]; then
    storage="AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((port + 19))
AccountingStoragePass=$socket
${tres:+AccountingStorageTRES=$tres}
AccountingStoreFlags=job_comment,job_env,job_script"
else
    storage="AccountingStorageType=accounting_storage/none"
fi
cgroups=${CGROUPS:-0} try=/sys/fs/cgroup/memory
[ -d "$try" ] || try=/sys/fs/cgroup
if [ "$cgroups" = auto ]; then
    cgroups=0
    if mkdir "$try/safe-llava-$$" 2> /dev/null; then rmdir "$try/safe-llava-$$"; cgroups=1; fi
fi
if [ "$cgroups" = 1 ]; then
    processes="ProctrackType=proctrack/cgroup
TaskPlugin=task/cgroup
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=5"
    version=v1 mount=/sys/fs/cgroup
    [ ! -f "$mount/cgroup.controllers" ] || version=v2
    cat > etc/cgroup.conf << CONF
CgroupPlugin=cgroup/$version
CgroupMountpoint=$mount
IgnoreSystemd=yes
ConstrainRAMSpace=yes
ConstrainSwapSpace=no
ConstrainCores=no
ConstrainDevices=no
CONF
else
    # A machine without systemd, cgroups or CAP_SYS_RESOURCE. What a cgroup does elsewhere the accounting does: a step
    # above its memory is killed.
    processes="ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill,UsePss"
fi
cat > etc/slurm.conf << CONF
ClusterName=toy
$plugins
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$((port + 17))
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$socket
CredType=cred/munge
StateSaveLocation=$folder/state/controller
SlurmdSpoolDir=$folder/state/%n
SlurmctldPidFile=$folder/run/slurmctld.pid
SlurmdPidFile=$folder/run/slurmd_%n.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd_%n.log
MailProg=/bin/true
$processes
MpiDefault=none
SwitchType=switch/none
SlurmdParameters=config_overrides
PropagateResourceLimits=NONE
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,sched_min_interval=0
# Short timers: what takes a cluster minutes takes a test seconds.
OverTimeLimit=0
KillWait=5
InactiveLimit=0
MessageTimeout=10
SlurmctldTimeout=30
SlurmdTimeout=10
CompleteWait=0
MinJobAge=${MIN_JOB_AGE:-120}
FirstJobId=$first_job
JobRequeue=1
JobCompType=jobcomp/none
$storage
NodeName=DEFAULT CPUs=$cpus Boards=1 SocketsPerBoard=1 CoresPerSocket=$cpus ThreadsPerCore=1 RealMemory=$memory
NodeName=$names NodeHostname=$host NodeAddr=127.0.0.1 Port=[$first-$((first + nodes - 1))] Gres=gpu:$gpu_type:${NO_CONSUME:+no_consume:}$gpus State=UNKNOWN
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=DEFAULT Nodes=n[1-2] State=UP OverSubscribe=NO DefMemPerCPU=100 DefaultTime=10 MaxTime=1-00:00:00
PartitionName=cpu Default=YES PriorityTier=10 PreemptMode=OFF
PartitionName=gpu PriorityTier=10 PreemptMode=OFF
PartitionName=short PriorityTier=10 PreemptMode=OFF MaxTime=2
# One node more than a job of two needs.
PartitionName=wide Nodes=n[1-2],n8 PriorityTier=10 PreemptMode=OFF
# Nodes that a test takes away, or wants for itself, are nobody else's.
PartitionName=frail Nodes=n[3-4] PriorityTier=10 PreemptMode=OFF
PartitionName=low Nodes=n[5-7] PriorityTier=1 PreemptMode=REQUEUE
PartitionName=lowcancel Nodes=n[5-7] PriorityTier=1 PreemptMode=CANCEL
PartitionName=high Nodes=n[5-7] PriorityTier=10 PreemptMode=OFF
CONF
cat > etc/gres.conf << CONF
AutoDetect=off
NodeName=$names Name=gpu Type=$gpu_type File=$folder/dev/nvidia[0-$((gpus - 1))]
CONF

# --- the clients find this cluster through wrappers: the job-step plugin drops every SLURM_* variable, SLURM_CONF too
for client in srun sbatch salloc scancel squeue sinfo sacct sacctmgr scontrol sshare sstat sdiag; do
    printf '#!/bin/sh\nSLURM_CONF=%s exec %s/%s "$@"\n' "$folder/etc/slurm.conf" "$programs" $client > bin/$client
done
for daemon in slurmctld slurmdbd "slurmd $stepd"; do
    printf '#!/bin/sh\nSLURM_CONF=%s exec %s "$@"\n' "$folder/etc/slurm.conf" \
        "$(command -v "${daemon%% *}")${daemon#"${daemon%% *}"}" > "bin/${daemon%% *}"
done
chmod +x bin/*
# shellcheck disable=SC2016
printf 'export PATH=%s:$PATH\n' "$folder/bin" > env.sh
export SLURM_CONF=$folder/etc/slurm.conf

# --- accounting
if [ "$accounting" = 1 ]; then
    mkdir -p run/sql
    if [ ! -d mysql/mysql ]; then
        mkdir -p mysql
        chown mysql: mysql
        mariadb-install-db --no-defaults --user=mysql --datadir="$folder/mysql" --skip-test-db \
            --auth-root-authentication-method=socket --auth-root-socket-user=root > log/mariadb-install.log 2>&1
    fi
    : > log/mariadb.log
    chown mysql: log/mariadb.log run/sql
    setsid nohup mariadbd --no-defaults --user=mysql --datadir="$folder/mysql" --socket="$sql" \
        --pid-file="$folder/run/sql/pid" --bind-address=127.0.0.1 --port=$((port + 6)) \
        --log-error="$folder/log/mariadb.log" --skip-name-resolve --innodb-buffer-pool-size=64M \
        --innodb-lock-wait-timeout=900 --innodb-flush-log-at-trx-commit=0 --performance-schema=off \
        < /dev/null > /dev/null 2>&1 &
    wait_for MariaDB 60 mariadb-admin --no-defaults --socket="$sql" ping
    mariadb --no-defaults --socket="$sql" -e "CREATE DATABASE IF NOT EXISTS slurm_acct_db;
        CREATE USER IF NOT EXISTS slurm@'127.0.0.1' IDENTIFIED BY 'slurm';
        GRANT ALL ON slurm_acct_db.* TO slurm@'127.0.0.1';"
    (umask 077 && cat > etc/slurmdbd.conf) << CONF
$plugins
AuthType=auth/munge
AuthInfo=socket=$socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$((port + 19))
SlurmUser=root
LogFile=$folder/log/slurmdbd.log
PidFile=$folder/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$((port + 6))
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
CONF
    bin/slurmdbd
    wait_for slurmdbd 30 sacctmgr -n show cluster
    sacctmgr -n show cluster format=cluster%20 | grep -qw toy || sacctmgr -i add cluster toy > /dev/null
    if ! sacctmgr -n show account format=account%20 | grep -qw lab; then
        sacctmgr -i add account lab Cluster=toy Description=lab Organization=lab > /dev/null
        sacctmgr -i add user root Account=lab > /dev/null || true # it is there from the start in some versions
        sacctmgr -i modify user root set DefaultAccount=lab > /dev/null
    fi
fi

# --- the controller and the nodes
bin/slurmctld
wait_for slurmctld 30 sh -c 'scontrol ping | grep -q "is UP"'
for node in $(seq "$nodes"); do
    mkdir -p "state/n$node"
    bin/slurmd -N "n$node"
done
wait_for "the nodes" 60 sh -c "[ \$(sinfo -h -N -o '%N %t' | sort -u | grep -c ' idle\$') = $nodes ]"
