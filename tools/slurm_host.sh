#!/usr/bin/env bash
# Slurm on this one machine, over loopback: for trying what a cluster does with `make LAUNCH="srun ..."`.
#
#   tools/slurm_host.sh start FOLDER    prints the line that tells srun, squeue and the rest where it is:
#                                       eval "$(tools/slurm_host.sh start build/slurm)"
#       CPUS=64 GPUS=8 before it        lets the host pass for one with as many, for lines that ask for them
#   tools/slurm_host.sh stop FOLDER     ends the daemons that `start` began, and no others
#   tools/slurm_host.sh install FOLDER  only installs; fails where that cannot be done
#
# Needs Debian's slurm-wlm and munge, and root; installs them where apt-get can. It is no cluster to
# work with: one node, one partition, no accounting. Configuration, keys, logs and states lie in FOLDER.
# The daemons and srun listen at 127.0.0.1 only. A requeued job waits 10 seconds, and not Slurm's two minutes.
set -euo pipefail

usage() { sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ $# -eq 2 ] || usage
action=$1
mkdir -p "$2"
folder=$(cd "$2" && pwd)
say() { echo "slurm_host: $*" >&2; }

need() {
	for program in munged slurmctld slurmd srun; do
		command -v "$program" >/dev/null || PATH=$PATH:/usr/sbin command -v "$program" >/dev/null || return 1
	done
}

install() {
	need && return
	[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || { say "install slurm-wlm and munge first"; exit 3; }
	say "installing slurm-wlm and munge"
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq slurm-wlm munge >"$folder/apt.log" 2>&1 ||
		{ say "could not install slurm-wlm and munge: see $folder/apt.log"; exit 3; }
}

configure() {
	mkdir -p "$folder"/{state,spool,munge}
	chmod 700 "$folder/munge"
	[ -f "$folder/munge.key" ] || dd if=/dev/urandom of="$folder/munge.key" bs=1 count=1024 status=none
	chmod 400 "$folder/munge.key"
	cat >"$folder/slurm.conf" <<-END
		ClusterName=one
		SlurmctldHost=localhost(127.0.0.1)
		SlurmUser=root
		SlurmdUser=root
		SlurmctldPort=$1
		SlurmdPort=$2
		AuthType=auth/munge
		AuthInfo=socket=$folder/munge/socket,cred_expire=10
		CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
		CredType=cred/munge
		MpiDefault=none
		ProctrackType=proctrack/linuxproc
		TaskPlugin=task/none
		SelectType=select/cons_tres
		SelectTypeParameters=CR_Core
		SchedulerParameters=batch_sched_delay=1,sched_interval=1
		JobRequeue=1
		ReturnToService=2
		StateSaveLocation=$folder/state
		SlurmdSpoolDir=$folder/spool
		SlurmctldPidFile=$folder/slurmctld.pid
		SlurmdPidFile=$folder/slurmd.pid
		SlurmctldLogFile=$folder/slurmctld.log
		SlurmdLogFile=$folder/slurmd.log
		SlurmdParameters=config_overrides
		GresTypes=gpu
		NodeName=localhost NodeAddr=127.0.0.1 Port=$2 CPUs=${CPUS:-$(nproc)} Gres=gpu:${GPUS:-0} RealMemory=$(awk '/MemTotal/ {print int($2 / 1200)}' /proc/meminfo) State=UNKNOWN
		PartitionName=all Nodes=localhost Default=YES MaxTime=INFINITE State=UP
	END
	gpus
}

# Slurm wants a file for each GPU
gpus() {
	rm -rf "$folder/gpus"
	mkdir "$folder/gpus"
	for n in $(seq "${GPUS:-0}"); do touch "$folder/gpus/gpu$n"; done
	if [ "${GPUS:-0}" -gt 0 ]; then echo "Name=gpu File=$folder/gpus/gpu[1-$GPUS]"; fi >"$folder/gres.conf"
}

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

start() {
	[ "$(id -u)" = 0 ] || { say "the daemons need root"; exit 3; }
	install
	export PATH=$PATH:/usr/sbin
	stop
	configure "$(free_port)" "$(free_port)"
	export SLURM_CONF=$folder/slurm.conf
	munged --key-file="$folder/munge.key" --socket="$folder/munge/socket" --pid-file="$folder/munged.pid" \
		--log-file="$folder/munged.log" --seed-file="$folder/munge.seed" --force >"$folder/munged.out" 2>&1
	slurmctld -f "$SLURM_CONF" >"$folder/slurmctld.out" 2>&1
	slurmd -N localhost -f "$SLURM_CONF" >"$folder/slurmd.out" 2>&1
	for _ in $(seq 60); do
		sinfo -h -o %T 2>/dev/null | grep -qE 'idle|mixed|allocated' && { echo "export SLURM_CONF='$SLURM_CONF'"; return; }
		sleep 0.5
	done
	say "the node did not come up: see $folder/slurmctld.log and $folder/slurmd.log"
	stop
	exit 1
}

stop() {
	for daemon in slurmd slurmctld munged; do
		pid=$(cat "$folder/$daemon.pid" 2>/dev/null) || continue
		[ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$daemon" ] && kill "$pid" || true
		for _ in $(seq 20); do kill -0 "$pid" 2>/dev/null || break; sleep 0.25; done
		rm -f "$folder/$daemon.pid"
	done
}

case $action in start) start ;; stop) stop ;; install) install ;; *) usage ;; esac
