#!/bin/busybox sh
# The first process of a virtual machine that has nothing but a kernel of a distribution, nft,
# kubectl and monopod. Every check prints one line on the serial port, `CHECK ok …` or
# `CHECK FAILED …`, which xtask judges; a failed one is followed by what was printed and logged.
#
# As on a fresh server: modules are loaded when they are asked for, all cgroups are version 2, there
# is no route to anywhere, and monopod is the service of a manager that has given it a leaf.

export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root KUBECONFIG=/var/lib/monopod/kubeconfig

if [ -z "$1" ]; then
    # Nobody can pivot away from the first root; a tmpfs is like any disk.
    /bin/busybox mkdir /root.new
    /bin/busybox mount -t tmpfs -o size=80%,mode=755 root /root.new
    /bin/busybox cp -a /bin /sbin /lib /lib64 /usr /etc /images /init /root.new/
    cd /root.new && /bin/busybox mkdir -p proc sys dev run tmp var/lib var/log root mnt
    exec /bin/busybox switch_root /root.new /init second
fi

boot() {
    mount -t devtmpfs dev /dev
    exec >/dev/ttyS0 2>&1 </dev/null
    mkdir -p /dev/pts /dev/shm
    mount -t proc proc /proc
    mount -t sysfs sys /sys
    mount -t devpts devpts /dev/pts
    mount -t tmpfs shm /dev/shm
    mount -t tmpfs run /run
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    mount --make-rshared / # as systemd does
    hostname guest
    ip link set lo up
    depmod
}
[ "$1" = second ] && boot

seconds() { cut -d' ' -f1 /proc/uptime; }
ok() { echo "CHECK ok $1 ($(seconds) s)"; }
bad() {
    echo "CHECK FAILED $1 ($(seconds) s)"
    sed 's/^/    | /' /tmp/out
    echo "    | monopod.log:"
    tail -n 20 /tmp/monopod.log | sed 's/^/    | /'
    dmesg | tail -n 5 | sed 's/^/    | kernel: /'
}
# check SENTENCE COMMAND…: the command must succeed.
check() {
    sentence=$1
    shift
    if "$@" >/tmp/out 2>&1; then ok "$sentence"; else bad "$sentence"; fi
}
# until_true COMMAND…: tries for a minute; for states that nobody can be asked to wait for.
until_true() {
    tries=0
    while ! "$@"; do
        tries=$((tries + 1))
        [ $tries -lt 300 ] || return 1
        usleep 200000
    done
}
# is TEXT COMMAND…: the command must print exactly this.
is() {
    expected=$1
    shift
    "$@" >/tmp/is 2>&1
    [ "$(cat /tmp/is)" = "$expected" ] || { echo "expected: $expected"; cat /tmp/is; false; }
}
field() { kubectl get "$1" "$2" -o "jsonpath=$3"; }

DATA=/var/lib/monopod
# The service manager's group, and monopod as its leaf.
LEAF=/sys/fs/cgroup/system.slice/monopod.service
up() {
    mkdir -p $LEAF
    : >/tmp/monopod.out
    sh -c "echo \$\$ >$LEAF/cgroup.procs; exec monopod up --node-name guest --data-dir $DATA" >/tmp/monopod.out 2>>/tmp/monopod.log &
    until_true grep -q Ready /tmp/monopod.out || { cat /tmp/monopod.out; false; }
}
# As a manager kills what it has started: all of the group, and nothing else.
kill_leaf() {
    echo 1 >$LEAF/cgroup.kill 2>/dev/null || kill -9 $(cat $LEAF/cgroup.procs)
    until_true grep -q 'populated 0' $LEAF/cgroup.events
}

ready() { kubectl wait --for=condition=Ready --timeout=60s "$@"; }
ended() { kubectl wait --for="jsonpath={.status.phase}=$2" --timeout=60s "pod/$1"; }
terminated='{.status.containerStatuses[0].state.terminated'

killed_for_memory() {
    ended hungry Failed &&
        is "OOMKilled 137" field pod hungry "$terminated.reason} $terminated.exitCode}" &&
        is 1 grep -c "killed for memory" /tmp/monopod.log
}
service_from_pod() { kubectl exec -c client client -- timeout 5 wget -q -O - http://web; }
service_from_host() { timeout 5 wget -q -O - "http://$(field service web '{.spec.clusterIP}')"; }
nested_groups() {
    kubectl exec nest -- sh -ec '
        cd /sys/fs/cgroup && mkdir inner && echo 1 >inner/cgroup.procs
        echo $$ >inner/cgroup.procs && echo +pids >cgroup.subtree_control'
    is inside kubectl exec nest -- echo inside
}

PODS='/sys/fs/cgroup/monopod-*/kubepods'
# numbers FILE… of a group: in one line.
numbers() { (cd $1 && shift && cat "$@" | tr '\n' ' '); }
kubelets_numbers() {
    web=$PODS/burstable/pod$(field pod web '{.metadata.uid}')
    echo "on $(nproc) processors:" &&
        is "39 $(($(sed -n 's/MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo) * 1024)) " \
            numbers "$PODS" cpu.weight memory.max &&
        is "10 " numbers "$PODS/burstable" cpu.weight &&
        is "1 " numbers "$PODS/besteffort" cpu.weight &&
        is "10 50000 100000 67108864 0 " numbers "$web" cpu.weight cpu.max memory.max memory.oom.group &&
        is "35 50000 100000 67108864 1 " numbers "$web/*/" cpu.weight cpu.max memory.max memory.oom.group
}
devices_are_denied() {
    kubectl exec -c client client -- sh -xc '
        cat /proc/self/cgroup
        mknod /tmp/null c 1 3 && true >/tmp/null && mknod /tmp/kmsg c 1 11 && ! true </tmp/kmsg'
}
# Users of its own need a tmpfs that can show its files as theirs: from 6.3 on.
release() { uname -r | sed 's/^\([0-9]*\)\.\([0-9]*\).*/\1 \2/'; }
has_own_users() { set -- $(release) && [ "$1" -gt 6 ] || { [ "$1" -eq 6 ] && [ "$2" -ge 3 ]; }; }
own_users() {
    if has_own_users; then
        ready pod/apart &&
            is "0 0 0 2000" kubectl exec apart -- sh -c 'echo $(id -u) $(stat -Lc %u / /token/token) $(stat -c %g /scratch)' &&
            kubectl exec apart -- sh -c 'touch /new /scratch/new && ! echo x 2>/dev/null >/proc/sys/kernel/core_pattern' &&
            [ "$(stat -c %u $DATA/pods/"$(field pod apart '{.metadata.uid}')"/sandbox-0/containers/*/upper/new)" -ge 65536 ]
    else
        ended apart Failed &&
            field pod apart '{.status.reason}: {.status.message}' | tee /dev/stderr |
            grep -q "^PodFeatureUnsupported: can't set .spec.hostUsers: false.*possible from Linux 6.3"
    fi
}
new_address() {
    brctl addbr outside && ip addr add 192.0.2.10/24 dev outside && ip link set outside up &&
        ip route add default via 192.0.2.1
}
adopted() {
    is "192.0.2.10 0" field pod web '{.status.hostIPs[*].ip} {.status.containerStatuses[0].restartCount}'
}
nothing_left() {
    ! grep $DATA/ /proc/self/mountinfo && ! ls -d /sys/fs/cgroup/monopod-* 2>/dev/null &&
        ! ip -o link | grep -E ': (mp|v)[0-9a-f]{8}' && is "" nft list tables && ! pidof monopod
}
names_modules() {
    ! monopod doctor >/tmp/doctor 2>&1
    cat /tmp/doctor
    grep -q nft_masq /tmp/doctor && grep -q nft_fib_ipv4 /tmp/doctor && ! grep -q nft_nat /tmp/doctor &&
        grep -q '^optional.*nf_conntrack_netlink missing' /tmp/doctor
}

pods_live() {
    check "Pods and a Service are created" kubectl apply -f /etc/pods.yaml
    check "all Pods are ready" ready pod/web pod/client pod/nest
    check "an init container's log is there" is "from the init container" kubectl logs client -c first
    check "exec runs in a container" is client kubectl exec -c client client -- hostname
    check "devices that were not given are denied" devices_are_denied
    check "a container that eats too much is killed for memory, once" killed_for_memory
    check "groups have the numbers of a kubelet's" kubelets_numbers
    check "a Pod has users of its own, or is refused by name before Linux 6.3" own_users
    check "exec enters a container with nested groups" nested_groups
    check "a Pod reaches a Service of a Pod on its own node" is hello service_from_pod
    check "the host reaches a Service" is hello service_from_host
}
# With another address of the node, and a default route at last.
a_manager_kills_the_daemon() {
    check "the daemon is killed with its group" kill_leaf
    check "the Service leads on without it" is hello timeout 5 wget -q -O - "http://$1"
    check "the node gets an address" new_address
    check "the node is Ready again" up
    check "the Pods were adopted and tell the new address" until_true adopted
    check "exec runs in an adopted container" is client kubectl exec -c client client -- hostname
    modprobe br_netfilter
    check "a Pod reaches a Service with br_netfilter too" is hello service_from_pod
}
all_goes() {
    check "Pods are deleted" kubectl delete pod --all --timeout=60s
    check "down takes all away" monopod down --purge --data-dir $DATA
    check "nothing is left" nothing_left
}
# The kernel cannot be asked to forget where a flow of UDP goes.
without_lists_of_connections() {
    check "the node is Ready without lists of connections" up
    check "images are imported again" monopod image import /images/busybox.tar
    check "Pods and a Service are created again" kubectl apply -f /etc/pods.yaml
    check "they are ready again" ready pod/web pod/client
    check "the Service leads to its Pod" is hello service_from_pod
    all_goes
    check "what is missing was said once, by name" is 1 grep -c nf_conntrack_netlink /tmp/monopod.log
}
# As in a container of another runtime: processes in the root of a cgroup namespace.
in_a_container() {
    (cd /sys/fs/cgroup && mkdir -p docker/c1 && echo "+cpu +memory +pids" >cgroup.subtree_control &&
        echo "+cpu +memory +pids" >docker/cgroup.subtree_control)
    sh -c 'echo $$ >/sys/fs/cgroup/docker/c1/cgroup.procs; exec /usr/sbin/unshare -m -C /init container'
}

if [ "$1" = container ]; then
    umount /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup
    DATA=/var/lib/inner KUBECONFIG=/var/lib/inner/kubeconfig LEAF=/sys/fs/cgroup/service
    check "doctor finds nothing missing in a container" monopod doctor
    check "the node is Ready in a container" up
    check "images are imported there" monopod image import /images/busybox.tar --data-dir $DATA
    check "a Pod is created there" kubectl apply -f /etc/pods.yaml -l app=web
    check "it is ready there" ready pod/web
    all_goes
    exit
fi

echo "GUEST $(uname -r)"
: >/tmp/monopod.log
check "doctor finds nothing missing on a fresh boot" monopod doctor
check "the node is Ready" up
check "images are imported" monopod image import /images/busybox.tar
pods_live
a_manager_kills_the_daemon "$(field service web '{.spec.clusterIP}')"
all_goes
in_a_container
echo /bin/false >/proc/sys/kernel/modprobe
rmmod nf_conntrack_netlink
without_lists_of_connections
rmmod nft_masq nft_fib_ipv4
check "doctor names modules that are missing" names_modules
echo "GUEST done ($(seconds) s)"
poweroff -f
