"""A process in a container connects to the agent and dies; its id comes to mean root of the node.

Arguments: the agent's socket, the container's network namespace, the number of another one. Prints the status of a
permitted request, of a forbidden one, and of the forbidden one again after the id was used anew.
"""

import array
import ctypes
import os
import signal
import socket
import sys

CLONE_NEWNET = 0x40000000
CLONE_NEWPID = 0x20000000

path, container, other = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)


def check(result):
    if result != 0:
        raise OSError(ctypes.get_errno(), "a system call failed")


def connect(passing):
    """The container's process: connects, passes the connection on, and waits for its end."""
    check(libc.setns(os.open(container, os.O_RDONLY), CLONE_NEWNET))
    agent = socket.socket(socket.AF_UNIX)
    agent.connect(path)
    rights = array.array("i", [agent.fileno()])
    passing.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    signal.pause()


def ask(agent, query):
    agent.sendall(f"GET /v1/services{query} HTTP/1.1\r\nHost: agent\r\n\r\n".encode())
    stream = agent.makefile("rb")
    status = int(stream.readline().split()[1])
    length = 0
    while line := stream.readline().strip():
        name, value = line.split(b":", 1)
        if name.lower() == b"content-length":
            length = int(value)
    return status, stream.read(length).decode()


def take(pid):
    """Has a process of root run under this id; none if the id went elsewhere."""
    with open("/proc/sys/kernel/ns_last_pid", "w") as last:
        last.write(str(pid - 1))
    child = os.fork()
    if child == 0:
        signal.pause()
    if child == pid:
        return True
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


ours, theirs = socket.socketpair()
# Only children are in the new namespace; this process sees their ids as the agent does. The first one has to live as
# long as others are to be made, so a helper does it.
helper = os.fork()
if helper == 0:
    check(libc.unshare(CLONE_NEWPID))
    pid = os.fork()
    if pid == 0:
        connect(theirs)
    ours.send(pid.to_bytes(4, "little"))
    os.waitpid(pid, 0)
    os._exit(0)
pid = int.from_bytes(theirs.recv(4), "little")
_, rights, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(4))
agent = socket.socket(fileno=array.array("i", rights[0][2])[0])
print(ask(agent, "")[0])
print(ask(agent, f"?netns={other}")[0])
os.kill(pid, signal.SIGKILL)
os.waitpid(helper, 0)
if not any(take(pid) for _ in range(1000)):
    sys.exit("the id could not be used anew")
status, body = ask(agent, f"?netns={other}")
print(status)
print(body)
os.kill(pid, signal.SIGKILL)
os.waitpid(pid, 0)
