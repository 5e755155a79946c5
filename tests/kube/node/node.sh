#!/bin/sh
# Turns the namespaces that this runs in (mount, PID and network: all new) into a node: a root folder of its own in
# memory with this machine's programs in it, so that nothing that a kubelet or a container runtime writes is left
# when the last process has ended. It is process 1 of the node, and collects orphans.
#
#   node.sh ROOT SHARED PROGRAMS
#
# ROOT is an empty folder, SHARED one that the tests and the node both see (as /shared in the node), PROGRAMS the
# folder with Kubernetes' programs (as /kube).
set -eu
root=$1 shared=$2 programs=$3

mount -t tmpfs -o mode=755,size=8g node "$root"
cd "$root"
mkdir -p proc sys dev etc/cni run tmp var/lib/etcd var/lib/kubelet var/log var/tmp opt root shared kube old
chmod 1777 tmp var/tmp
ln -s /run var/run
ln -s /run/lock var/lock
mkdir run/lock

for folder in usr bin sbin lib lib32 lib64 libx32; do
    if [ -L "/$folder" ]; then
        cp -a "/$folder" "$folder"
    elif [ -d "/$folder" ]; then
        mkdir "$folder"
        mount --bind -o ro "/$folder" "$folder"
    fi
done
for file in alternatives group hosts ld.so.cache ld.so.conf ld.so.conf.d nsswitch.conf passwd protocols services ssl; do
    if [ -e "/etc/$file" ]; then cp -a "/etc/$file" etc/; fi
done
mount --bind "$shared" shared
mount --bind -o ro "$programs" kube
mount --rbind /sys sys
mount --rbind /dev dev
mount -t proc proc proc
# What drainctl pins in the node is no other's business, and goes with it.
mount -t bpf bpf sys/fs/bpf

# The kubelet wants these values, and would set them for the whole machine: let it find them set already.
pretend() {
    mkdir -p "run/pretended/${1%/*}"
    echo "$2" >"run/pretended/$1"
    mount --bind "run/pretended/$1" "proc/sys/$1"
}
pretend vm/overcommit_memory 1
pretend vm/panic_on_oom 0
pretend kernel/panic 10
pretend kernel/panic_on_oops 1
pretend kernel/keys/root_maxkeys 1000000
pretend kernel/keys/root_maxbytes 25000000

pivot_root . old
umount -l /old
rmdir /old
# Containers get to see what is mounted later, if they ask for it.
mount --make-rshared /

ip link set lo up
# Addresses of services lead nowhere until kube-proxy's rules translate them, but need a route all the same.
ip link add node0 type veth peer name node1
ip link set node1 up
ip address add 192.0.2.10/24 dev node0
ip link set node0 up
ip route add default via 192.0.2.1 dev node0
for key in net/ipv4/ip_forward net/bridge/bridge-nf-call-iptables; do echo 1 >"/proc/sys/$key"; done

touch /shared/ready
# The wait collects whoever lost its parent; the sleep is what there is to wait for.
while :; do
    sleep 3600 &
    wait
done
