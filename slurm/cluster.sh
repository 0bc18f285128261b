#!/usr/bin/env bash
# A real SLURM cluster on one machine, for the tests and for rehearsing a run before the real site:
# munge, MariaDB, slurmdbd (so sacct works), slurmctld and N nodes with pretended GPUs.
#
#   cluster.sh install              Debian packages (root); starts no daemon
#   cluster.sh sandbox CMD...       start, run CMD inside, stop; exit code of CMD
#   cluster.sh start | stop         a cluster for this machine's shells (root)
#   cluster.sh status               daemons, nodes and their states
#   cluster.sh env                  for eval: points sbatch, squeue, lenshpc to the cluster
#   cluster.sh exec CMD...          run CMD with that environment
#   cluster.sh reset                between tests: no jobs, all daemons and nodes up and idle
#   cluster.sh crash N | boot N     power loss of nodeN (all on it dies at once) and return
#   cluster.sh unplug N | replug N  network cable of nodeN
#   cluster.sh slurmd-stop N | slurmd-start N          slurmd of nodeN; its jobs run on
#   cluster.sh ctld-stop | ctld-start                  controller outage
#   cluster.sh dbd-stop | dbd-start                    accounting outage
#   cluster.sh shell N CMD...       run CMD on nodeN
#   cluster.sh hide N PATH          nodeN has an empty folder there, as where a mount is missing
#   cluster.sh loopback N           nodeN's own name is 127.0.1.1 on it, as Debian installs machines
#   cluster.sh limit N | limit off  jobs that a user may have in the queue, array elements included
#
# The cluster lives in network, pid and mount namespaces of its own ("the world") and each node in
# further ones inside it; they share the machine's files, so the checkout and /tmp are the "shared
# file system". Stopping kills the world's first process, and the kernel does the rest: no process,
# mount or interface can outlive it. `start` adds one interface, lenshpc0, through which the machine
# talks to the world; `sandbox` runs CMD inside it, so sandboxes stand side by side and need no root
# where user namespaces are allowed.
#
# Settings (environment variables):
LAB=${LENSHPC_LAB_DIR:-/tmp/lenshpc-lab}         # all files; a sandbox's own by default
NODES=${LENSHPC_LAB_NODES:-4}                    # node1..nodeN; one more is off until a job wants it
CPUS=${LENSHPC_LAB_CPUS:-4}                      # per node; may exceed the hardware, as may memory
MEM_MB=${LENSHPC_LAB_MEM_MB:-8000}               # per node
GPUS=${LENSHPC_LAB_GPUS:-4}                      # per node, pretended: a100, from node3 on 2080ti
SUBNET=${LENSHPC_LAB_SUBNET:-10.213.77}          # .1 the machine, .2 the controller, .1N nodeN
KILL_WAIT_S=${LENSHPC_LAB_KILL_WAIT_S:-3}        # SIGTERM to SIGKILL           (SLURM's default 30)
REQUEUE_DELAY_S=${LENSHPC_LAB_REQUEUE_DELAY_S:-7}    # until a requeued job may start        (120)
NODE_TIMEOUT_S=${LENSHPC_LAB_NODE_TIMEOUT_S:-6}  # until a silent node counts as dead        (300)

set -euo pipefail
SELF=$(readlink -f "${BASH_SOURCE[0]}")
UPLINK=lenshpc0
# slave: later mounts of the machine show up in the world, none of the world's on the machine
NAMESPACES=(--net --mount --pid --fork --kill-child --propagation slave)
GIVEN_LAB=${LENSHPC_LAB_DIR:-}
PATH=$PATH:/usr/sbin:/sbin

use_lab() {  # DIR
  LAB=$1 RUN=$1/run LOG=$1/log ETC=$1/etc
  export LENSHPC_LAB_DIR=$LAB SLURM_CONF=$ETC/slurm.conf
}
say() { echo "[cluster] $*" >&2; }
die() { say "$*"; exit 1; }
poll() {  # SECONDS WHAT CMD...: until CMD succeeds
  local end=$((SECONDS + $1)) what=$2; shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < end)) || die "timed out waiting for $what; logs: $LOG"
    sleep .05
  done
}

# ------------------------------------------------------------------------------------- processes
daemon() {  # NAME CMD...
  local name=$1; shift
  setsid "$@" </dev/null >>"$LOG/$name.out" 2>&1 &
  echo $! >"$RUN/$name.pid"
}
not() { ! "$@"; }
pid() { cut -d' ' -f1 "$RUN/$1.pid" 2>/dev/null; }
is_alive() { kill -0 "$(pid "$1")" 2>/dev/null; }
end() {  # NAME [SIGNAL]
  ! is_alive "$1" || kill "-${2:-TERM}" "$(pid "$1")"
  poll 15 "the end of $1" not is_alive "$1"
  rm -f "$RUN/$1.pid"
}
world_ns() { cut -d' ' -f2 "$RUN/world.pid" 2>/dev/null; }
is_inside() { [ "$(world_ns)" = "$(readlink /proc/self/ns/pid)" ]; }
is_running() {  # seen from outside; the namespace tells a recycled pid apart
  local ns; ns=$(readlink "/proc/$(pid world)/ns/pid") && [ "$(world_ns)" = "$ns" ]
}
announce() {  # NAME, by a namespace's first process, which still sees its parent's /proc
  local pid; read -r pid _ </proc/self/stat
  echo "$pid $(readlink /proc/self/ns/pid)" >"$RUN/$1.new"
  mount -t proc proc /proc
  mv "$RUN/$1.new" "$RUN/$1.pid"
}
isolate_names() {  # host names come from our file alone
  local file
  for file in nsswitch.conf resolv.conf hosts; do
    [ ! -e "/etc/$file" ] || mount --bind "$ETC/$file" "/etc/$file"
  done
}

# --------------------------------------------------------------------------------- configuration
fresh_lab() {
  if is_inside || is_running; then die "$LAB holds a running cluster"; fi
  # two of its sockets' paths must fit into the 108 bytes of a unix socket
  [ ${#LAB} -le 60 ] || die "LENSHPC_LAB_DIR is longer than 60 characters: $LAB"
  [ ! -e "$LAB" ] || { [ -O "$LAB" ] && [ -e "$LAB/.lenshpc-lab" ]; } ||
    die "$LAB exists and is no cluster of yours; set LENSHPC_LAB_DIR to another place"
  rm -rf "$LAB"
  mkdir -p "$RUN" "$LOG" "$ETC" "$LAB"/{state,spool,dev,munge,tmp}
  touch "$LAB/.lenshpc-lab"
}
write_config() {
  local i type me; me=$(id -un)
  printf 'NODES=%q SUBNET=%q\n' "$NODES" "$SUBNET" >"$RUN/settings"
  (umask 077; head -c 1024 /dev/urandom >"$LAB/munge/key")
  # Pretended GPUs must be character devices: with regular files CUDA_VISIBLE_DEVICES stays empty.
  for ((i = 0; i < GPUS; i++)); do
    mknod "$LAB/dev/nvidia$i" c 1 3 2>/dev/null || ln -s /dev/null "$LAB/dev/nvidia$i"
  done
  { echo "127.0.0.1 localhost"; echo "$SUBNET.2 $(hostname)"
    for ((i = 1; i <= NODES + 1; i++)); do echo "$SUBNET.$((10 + i)) node$i"; done; } >"$ETC/hosts"
  for ((i = 1; i <= NODES + 1; i++)); do
    sed "s/.* node$i\$/127.0.1.1 node$i/" "$ETC/hosts" >"$ETC/hosts-loopback$i"
  done
  # No DNS in the world: torch looks addresses up backwards, and an unreachable server made
  # init_process_group take 20 s instead of 0.05 s.
  sed 's/^hosts:.*/hosts: files/' /etc/nsswitch.conf >"$ETC/nsswitch.conf" 2>/dev/null || true
  : >"$ETC/resolv.conf"
  # File= is needed: with Count= alone slurmd reports no GPU and the node is drained as INVAL.
  for ((i = 1; i <= NODES + 1; i++)); do
    type=a100; ((i <= 2)) || type=2080ti
    ((GPUS == 0)) ||
      echo "NodeName=node$i Name=gpu Type=$type File=$LAB/dev/nvidia[0-$((GPUS - 1))]" >&3
    echo "NodeName=node$i NodeAddr=$SUBNET.$((10 + i)) Gres=gpu:$type:$GPUS" \
      "Feature=$type,rack$((2 - i % 2)) $( ((i <= NODES)) || echo State=CLOUD)"
  done 3>"$ETC/gres.conf" >"$ETC/nodes.conf"
  # slurmd 22.05 loads a cgroup plugin even if nothing uses it, and finding one by itself is fatal
  # where cgroups are absent, read-only or mixed. The v1 plugin touches nothing until it is used.
  printf '%s\n' CgroupAutomount=no IgnoreSystemd=yes CgroupPlugin=cgroup/v1 >"$ETC/cgroup.conf"

  cat >"$ETC/slurm.conf" <<EOF
ClusterName=lenshpc
# the name must be this host's or the literal "localhost"; the address is what everybody dials
SlurmctldHost=localhost($SUBNET.2)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=$me
SlurmdUser=$me
# cred_expire also is how long a requeued job waits before it may start again. It must exceed
# KillWait by some 2 s, else the new run meets the old step on its node: "Duplicate jobid", the node
# is drained and the job ends as "launch failed requeued held".
AuthInfo=socket=$LAB/munge/socket,cred_expire=$REQUEUE_DELAY_S
StateSaveLocation=$LAB/state
SlurmdSpoolDir=$LAB/spool/%n
SlurmctldPidFile=$RUN/.slurmctld
SlurmdPidFile=$RUN/.slurmd-%n
SlurmctldLogFile=$LOG/slurmctld.log
SlurmdLogFile=$LOG/slurmd-%n.log
# no systemd, no cgroups
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
# hardware as written here, not as found
SlurmdParameters=config_overrides
GresTypes=gpu
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=200
PropagateResourceLimits=NONE
# accounting; over-use of memory is found by looking every 2 s
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=$SUBNET.2
AccountingStoragePort=16819
# the munge socket towards slurmdbd is taken from here, not from AuthInfo
AccountingStoragePass=$LAB/munge/socket
AccountingStorageTRES=gres/gpu,gres/gpu:a100,gres/gpu:2080ti
AccountingStorageEnforce=limits
# quick reactions: by default jobs wait up to 60 s for a look by the scheduler
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=2,bf_continue,default_queue_depth=2000
SlurmdTimeout=$NODE_TIMEOUT_S
MessageTimeout=5
TCPTimeout=2
KillWait=$KILL_WAIT_S
MinJobAge=900
# requeue and preemption
# 1: a lost node returns by itself, one that an admin set DOWN stays down
ReturnToService=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# a preempted job gets its own --signal (submitit: USR2), not only TERM
SlurmctldParameters=preempt_send_user_signal
# refuse what can never run, instead of leaving it pending
EnforcePartLimits=ALL
# the default 1001 would refuse large arrays
MaxArraySize=10001
MaxJobCount=50000
# Ids must not come again after a restart: submitit would take an old job's result pickle for the
# new one's. 100 ids a second outrun what this cluster can start; the count wraps after a week.
FirstJobId=$((EPOCHSECONDS % 600000 * 100 + 1))
# what no job has asked for is off, and seen as IDLE+CLOUD+POWERED_DOWN
PrivateData=cloud
ResumeProgram=$ETC/resume
SuspendProgram=$ETC/suspend
ResumeTimeout=30
SuspendTimeout=5
JobSubmitPlugins=lua
NodeName=DEFAULT CPUs=$CPUS Boards=1 SocketsPerBoard=1 CoresPerSocket=$CPUS ThreadsPerCore=1 RealMemory=$MEM_MB
include $ETC/nodes.conf
PartitionName=DEFAULT  Nodes=node[1-$NODES] DefaultTime=10
PartitionName=cpu      PriorityTier=10  PreemptMode=OFF
PartitionName=gpuonly  PriorityTier=10  PreemptMode=OFF
PartitionName=elastic  PriorityTier=10  PreemptMode=OFF Nodes=node$((NODES + 1)) SuspendTime=5
PartitionName=batch    PriorityTier=10  PreemptMode=OFF Default=YES
PartitionName=low      PriorityTier=1   PreemptMode=REQUEUE
PartitionName=lowgrace PriorityTier=1   PreemptMode=REQUEUE GraceTime=60
PartitionName=high     PriorityTier=100 PreemptMode=OFF
EOF
  cat >"$ETC/job_submit.lua" <<'EOF'
-- a site's own rules: no job without GPUs in gpuonly, none with GPUs in cpu
function slurm_job_submit(job, partitions, uid)
  local asked = table.concat({job.tres_per_node or "", job.tres_per_job or "", job.tres_per_task or "",
                              job.tres_per_socket or ""}):find("gpu") ~= nil
  if (job.partition == "gpuonly" and not asked) or (job.partition == "cpu" and asked) then
    slurm.log_user("partition %s is for jobs %s GPUs", job.partition, asked and "without" or "with")
    return slurm.ERROR
  end
  return slurm.SUCCESS
end
function slurm_job_modify(job, record, partitions, uid) return slurm.SUCCESS end
EOF
  for i in resume suspend; do
    echo '#!/bin/sh' >"$ETC/$i"
    echo "LENSHPC_LAB_DIR='$LAB' exec bash '$SELF' _$i \"\$1\" >>'$LOG/power.out' 2>&1" >>"$ETC/$i"
  done
  chmod +x "$ETC/resume" "$ETC/suspend"
  # slurmdbd insists on mode 600
  (umask 077; cat >"$ETC/slurmdbd.conf" <<EOF
AuthInfo=socket=$LAB/munge/socket
DbdHost=localhost
DbdAddr=$SUBNET.2
DbdPort=16819
SlurmUser=$me
LogFile=$LOG/slurmdbd.log
PidFile=$RUN/.slurmdbd
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=$me
StorageLoc=slurm_acct_db
EOF
  )
  cat >"$ETC/my.cnf" <<EOF   # reached by unix socket only, no password, and not durable
[mariadbd]
user=$me
datadir=$LAB/mysql
socket=$RUN/mysql.sock
tmpdir=$LAB/tmp
skip-networking
skip-log-bin
skip-name-resolve
performance_schema=OFF
innodb_log_file_size=16M
innodb_flush_log_at_trx_commit=0
innodb_flush_method=nosync
EOF
}

# ----------------------------------------------------------------------------------------- nodes
is_registered_since() {  # N TIME: and can take jobs
  local s t; s=$(scontrol -o show node "node$1")
  t=$(sed -n 's/.*SlurmdStartTime=\([^ ]*\).*/\1/p' <<<"$s"); t=$(date -d "$t" +%s) || return 1
  [ "$t" -ge "$2" ] || return 1
  # ReturnToService=1 does not bring a node back that is down as "unexpectedly rebooted"
  case $s in *Reason=*) scontrol update nodename="node$1" state=resume; return 1;; esac
}
power_on() {  # N
  local up; read -r up _ </proc/uptime
  mkdir -p "$LAB/spool/node$1"
  rm -f "$RUN/node$1.mounts"   # else all that it mounts now would be new, and unmounted by `reset`
  # The time namespace gives the node a boot time of its own: without it SLURM does not notice a
  # quick reboot, and a job that lost a rank ends as COMPLETED.
  setsid unshare "${NAMESPACES[@]}" --uts --time --boottime "-${up%.*}" bash "$SELF" _node "$1" \
    </dev/null >>"$LOG/node$1.out" 2>&1 &
  poll 10 "nodeN's first process" test -e "$RUN/node$1.pid"
  ip link add "node$1" type veth peer name eth0 netns "$(pid "node$1")"
  ip link set "node$1" master nodes up
}
cmd__node() {  # N; first process of nodeN
  hostname "node$1"
  mount -t tmpfs -o mode=1777 tmpfs /dev/shm
  announce "node$1"
  # submitit draws MASTER_PORT from 20000-60000; srun and slurmstepd listen on ephemeral ports
  echo "60001 65535" >/proc/sys/net/ipv4/ip_local_port_range
  poll 10 "the network card" ip link show eth0
  ip link set lo up
  ip addr add "$SUBNET.$((10 + $1))/24" dev eth0
  ip link set eth0 up
  cut -d' ' -f1,5 /proc/self/mountinfo >"$RUN/node$1.mounts.new"
  mv "$RUN/node$1.mounts.new" "$RUN/node$1.mounts"
  slurmd -N "node$1"
  while :; do sleep 3600; done     # bash as first process also buries orphans
}
cmd_crash() {  # N
  is_alive "node$1" || die "node$1 is off"
  end "node$1" KILL      # the kernel kills all in its pid namespace with it
  ip link del "node$1" 2>/dev/null || true
  rm -f "$RUN/.slurmd-node$1"
}
cmd_boot() {  # N
  not is_alive "node$1" || die "node$1 is on"
  local since=$EPOCHSECONDS
  power_on "$1"
  poll 30 "node$1 to register" is_registered_since "$1" "$since"
}
cmd_unplug() { ip link set "node$1" down; }
cmd_replug() { ip link set "node$1" up; }
cmd_shell() {  # N CMD...
  is_alive "node$1" || die "node$1 is off"
  nsenter --target "$(pid "node$1")" --net --uts --mount --pid --time env -C "$PWD" "${@:2}"
}
cmd_hide() { cmd_shell "$1" mount -t tmpfs hidden "$2"; }  # N PATH
cmd_loopback() { cmd_shell "$1" mount --bind "$ETC/hosts-loopback$1" /etc/hosts; }
mounts() { cmd_shell "$1" cut -d' ' -f1,5 /proc/self/mountinfo; }  # N: id and place of each
unmount_new() {  # N: what was mounted on a node since it is on, the latest first
  local place
  [ -e "$RUN/node$1.mounts" ] || return 0     # it is coming up
  { mounts "$1" | grep -vxFf "$RUN/node$1.mounts" || true; } | tac |
    while read -r _ place; do cmd_shell "$1" umount -l "$(printf '%b' "$place")"; done
}
hosts() { scontrol show hostnames "$1"; }
cmd__suspend() {  # NODES; by slurmctld, as the next
  local node
  for node in $(hosts "$1"); do ! is_alive "$node" || cmd_crash "${node#node}"; done
}
cmd__resume() {
  local node
  cmd__suspend "$1"     # it may still be on, if it was wanted and then not
  sleep 2               # one that was up, in whole seconds, before it was wanted counts as off
  for node in $(hosts "$1"); do power_on "${node#node}"; done
}
cmd_slurmd-start() { cmd_shell "$1" slurmd -N "node$1"; }  # N
cmd_slurmd-stop() {
  cmd_shell "$1" kill "$(cat "$RUN/.slurmd-node$1")"
  poll 10 "the end of slurmd" test ! -e "$RUN/.slurmd-node$1"
}

# -------------------------------------------------------------------------------- the whole cluster
cmd_ctld-start() {
  daemon slurmctld slurmctld -D
  poll 20 slurmctld eval "scontrol ping | grep UP"
}
cmd_ctld-stop() { end slurmctld; }
cmd_dbd-stop() { end slurmdbd; }
cmd_dbd-start() {  # libmariadb, inside slurmdbd, takes the socket from MYSQL_UNIX_PORT
  MYSQL_UNIX_PORT=$RUN/mysql.sock daemon slurmdbd slurmdbd -D
  poll 30 slurmdbd sacctmgr -n show cluster
}
start_database() {
  # --force: it gives up where the host's name does not resolve. TMPDIR: temporary tables are named
  # by pid, and sandboxes have equal pids: in one /tmp they met.
  TMPDIR=$LAB/tmp mariadb-install-db --no-defaults --force --skip-test-db --datadir="$LAB/mysql" \
    --innodb-log-file-size=16M --user="$(id -un)" --auth-root-authentication-method=socket \
    --auth-root-socket-user="$(id -un)" >"$LOG/mariadb-install.out" 2>&1 ||
    die "mariadb-install-db failed: $(cat "$LOG/mariadb-install.out")"
  daemon mariadbd mariadbd --defaults-file="$ETC/my.cnf"
  poll 30 mariadbd mariadb --no-defaults -S "$RUN/mysql.sock" -e "select 1"
}
start_all() {
  local i job
  write_config
  isolate_names
  ip link set lo up
  ip link add nodes type bridge
  ip addr add "$SUBNET.2/24" dev nodes
  ip link set nodes up
  daemon munged munged --foreground --force --num-threads=4 --socket="$LAB/munge/socket" \
    --key-file="$LAB/munge/key" --pid-file="$RUN/.munged" --log-file="$LOG/munged.log" \
    --seed-file="$LAB/munge/seed"
  start_database
  poll 10 munged munge -n -S "$LAB/munge/socket"
  cmd_dbd-start
  # before slurmctld, which cannot register otherwise; limits are those of a user of an account
  printf 'add %s\n' "cluster lenshpc" "user $(id -un) account=root" |
    sacctmgr -n -i >/dev/null || true   # the user root is there with the cluster
  cmd_ctld-start
  for ((i = 1; i <= NODES; i++)); do power_on "$i"; done
  poll 30 "idle nodes" are_nodes_idle
  # slurmctld feeds slurmdbd only from some 5 s after its start, unless a job is waited for
  job=$(sbatch --parsable -J warm-up -D / -o /dev/null --wrap true)
  poll 30 "the first job in sacct" eval "sacct -X -n -j $job -o state | grep COMPLETED"
}
cmd_limit() {  # N or off
  local most=$1; [ "$most" != off ] || most=-1
  sacctmgr -n -i modify user where name="$(id -un)" set MaxSubmitJobs="$most" >/dev/null
  if [ "$most" = -1 ]; then rm -f "$RUN/limited"; else touch "$RUN/limited"; fi
}
are_nodes_idle() { [ "$(sinfo -h -N -p batch -o %T | grep -cx idle)" = "$NODES" ]; }
is_at_rest() {
  local node
  for node in $(sinfo -h -N -p batch -t down,drain,fail -o %N); do  # so they stay until resumed
    scontrol update nodename="$node" state=resume
  done
  [ -z "$(squeue -h)" ] && are_nodes_idle
}
cmd_reset() {
  local i
  is_alive slurmdbd || cmd_dbd-start
  is_alive slurmctld || cmd_ctld-start
  scancel --state=PENDING --user="$(id -un)"    # first, or they start where the others end
  scancel --user="$(id -un)"
  for ((i = 1; i <= NODES; i++)); do
    if not is_alive "node$i"; then power_on "$i"
    elif [ ! -e "$RUN/.slurmd-node$i" ]; then cmd_slurmd-start "$i"; fi
    cmd_replug "$i"
    unmount_new "$i"
  done
  [ ! -e "$RUN/limited" ] || cmd_limit off
  not is_alive "node$((NODES + 1))" ||
    scontrol update nodename="node$((NODES + 1))" state=power_down_force
  poll 60 "empty queue and idle nodes" is_at_rest
}
cmd__world() {  # [CMD...]; first process of the cluster's namespaces
  announce world
  mount --make-rshared /            # the nodes see what is mounted later
  start_all
  say "$NODES nodes x ($CPUS CPUs, $GPUS pretended GPUs) up after $SECONDS s"
  [ $# -gt 0 ] || { touch "$RUN/ready"; while :; do sleep 3600; done; }
  local rc=0; "$@" || rc=$?
  exit "$rc"
}

# ------------------------------------------------------------------------------------- from outside
is_installed() { type slurmctld slurmd slurmdbd sbatch munged mariadbd ip unshare &>/dev/null; }
cmd_install() {
  ! is_installed || return 0
  [ "$(id -u)" = 0 ] || die "install needs root"
  if [ ! -e /usr/sbin/policy-rc.d ]; then  # keeps Debian from starting the packages' services
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    install -m 755 /dev/stdin /usr/sbin/policy-rc.d <<<$'#!/bin/sh\nexit 101'
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends >/dev/null \
    slurmctld slurmd slurmdbd slurm-client munge mariadb-server-core mariadb-client-core \
    iproute2 util-linux
}
check_machine() {
  is_installed || die "SLURM is not installed; as root: $SELF install"
  unshare "${NAMESPACES[@]}" --uts --time true 2>/dev/null || die "this machine lets you make no" \
    "namespaces. Needed: root with CAP_SYS_ADMIN and CAP_NET_ADMIN (docker run --privileged)," \
    "or, for sandbox, unprivileged user namespaces (sysctl user.max_user_namespaces)"
}
cmd_start() {
  ! is_running || { say "already running"; return; }
  [ "$(id -u)" = 0 ] || die "start needs root; anybody may use: $SELF sandbox CMD"
  check_machine
  fresh_lab
  ip link del $UPLINK 2>/dev/null || true
  setsid unshare "${NAMESPACES[@]}" bash "$SELF" _world </dev/null >"$LOG/world.out" 2>&1 &
  until [ -e "$RUN/ready" ]; do
    kill -0 $! 2>/dev/null || die "the cluster did not start: $(cat "$LOG/world.out"); logs: $LOG"
    sleep .05
  done
  ip link add $UPLINK type veth peer name uplink netns "$(pid world)"
  ip addr add "$SUBNET.1/24" dev $UPLINK
  ip link set $UPLINK up
  nsenter --target "$(pid world)" --net ip link set uplink master nodes up
  cat "$LOG/world.out" >&2
}
cmd_stop() {
  is_running || { say "not running"; return; }
  kill -KILL "$(pid world)"
  poll 15 "the cluster's end" not is_running
  ip link del $UPLINK 2>/dev/null || true
}
cmd_sandbox() {  # CMD...
  local rc=0 world
  [ $# -gt 0 ] || die "sandbox needs a command, for example: $SELF sandbox bash"
  [ "$(id -u)" = 0 ] || NAMESPACES+=(--user --map-current-user --keep-caps)
  check_machine
  [ -n "$GIVEN_LAB" ] || use_lab "$(mktemp -u /tmp/lenshpc-lab-XXXXXX)"
  fresh_lab
  # unshare ignores TERM while it waits, hence this shell waits for it. Should this shell be killed,
  # pdeathsig ends unshare, and its kill-child the world. env: a background job would ignore Ctrl-C.
  env --default-signal=INT,QUIT setpriv --pdeathsig KILL \
    unshare "${NAMESPACES[@]}" bash "$SELF" _world "$@" <&0 &
  world=$!
  trap : INT
  trap 'kill -KILL $world 2>/dev/null' TERM HUP
  while wait $world || rc=$?; kill -0 $world 2>/dev/null; do rc=0; done
  poll 15 "the cluster's end" not is_running
  [ -n "$GIVEN_LAB" ] || rm -rf "$LAB"
  return $rc
}
cmd_status() {
  local name
  for name in munged mariadbd slurmdbd slurmctld; do
    if is_alive $name; then echo "$name up"; else echo "$name DOWN"; fi
  done
  sinfo -N -p batch -o '%8N %12T %6c %8m %10G %E'
}
cmd_env() { printf 'export SLURM_CONF=%q LENSHPC_LAB_DIR=%q\n' "$SLURM_CONF" "$LAB"; }
cmd_exec() { exec "$@"; }

command=${1:-}
declare -F "cmd_$command" >/dev/null ||
  { sed '1d;/^$/q;s/^# \{0,1\}//' "$SELF" >&2; exit 2; }
use_lab "$(realpath -m "$LAB")"
case $command in
  install | start | stop | sandbox | env | exec | _world) ;;
  *)
    if ! is_inside && [ "$command" != _node ]; then  # act inside the world
      is_running || die "no cluster is running in $LAB"
      exec nsenter --target "$(pid world)" --net --mount --pid env -C "$PWD" bash "$SELF" "$@"
    fi
    # shellcheck source=/dev/null
    . "$RUN/settings" ;;        # those it was started with
esac
"cmd_$command" "${@:2}"
