#!/usr/bin/env bash
# End what up.sh started in FOLDER: jobs first, then each daemon by the process id it wrote.
set -uo pipefail
folder=${1:?usage: down.sh FOLDER}
export SLURM_CONF=$folder/etc/slurm.conf

stop() { # FILE NAME
    local pid
    [ -s "$1" ] || return 0
    pid=$(cat "$1")
    # Another process may have got the number since.
    case "$(cat "/proc/$pid/comm" 2> /dev/null)" in "$2" | "$2"-wlm) ;; *) return 0 ;; esac
    kill "$pid"
    for _ in $(seq 100); do
        kill -0 "$pid" 2> /dev/null || return 0
        sleep 0.1
    done
    kill -9 "$pid"
}

export PATH=$folder/bin:$PATH # its own version's clients
timeout 10 scancel --user="$(id -un)" --full 2> /dev/null
for _ in $(seq 20); do
    [ -z "$(timeout 5 squeue -h 2> /dev/null)" ] && break
    sleep 0.5
done
for file in "$folder"/run/slurmd_*.pid; do stop "$file" slurmd & done
wait
stop "$folder/run/slurmctld.pid" slurmctld
stop "$folder/run/slurmdbd.pid" slurmdbd
stop "$folder/run/sql/pid" mariadbd
stop "$folder/run/munged.pid" munged
exit 0
