//! What the verifier says of each program that an agent loads: asked for on its behalf, by ptrace(2), since the agent
//! itself asks only when a program is refused.

use std::{
    collections::BTreeMap,
    io,
    os::unix::process::CommandExt as _,
    process::{Child, Command},
};

use anyhow::{Context as _, Result};

/// `BPF_PROG_LOAD` in enum bpf_cmd.
const PROG_LOAD: u64 = 5;
/// `BPF_LOG_STATS`: a few lines about the whole, nothing about each instruction.
const LOG_STATS: u32 = 4;
/// The smallest page that there is.
const LOG_SIZE: u32 = 4096;
/// How far below the stack pointer the log is written: nothing is there, and every thread's stack has it.
const BELOW: u64 = 64 << 10;

/// The beginning of `union bpf_attr` as `BPF_PROG_LOAD` reads it.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ProgLoad {
    kind: u32,
    instructions: u32,
    address: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    name: [u8; 16],
}

const _: () = assert!(size_of::<ProgLoad>() == 64);

/// What the verifier says by the name of the program.
pub(crate) type Logs = BTreeMap<String, String>;

/// Starts a command of which [`follow`] sees the calls of bpf(2), in a process group of its own.
pub(crate) fn start(command: &mut Command) -> Result<Child> {
    // SAFETY: what `be_traced` does may be done between fork and exec.
    unsafe { command.process_group(0).pre_exec(be_traced) };
    command.spawn().context("start a traced process")
}

/// A seccomp filter stops it at bpf(2) only: at each system call it would be slow beyond measure in an emulated machine.
fn be_traced() -> io::Result<()> {
    let ret = |action| instruction(libc::BPF_RET | libc::BPF_K, 0, action);
    let mut filter = [
        // `seccomp_data.nr` is at the beginning.
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, libc::SYS_bpf as u32),
        ret(libc::SECCOMP_RET_TRACE),
        ret(libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the filter lives through the call; ptrace takes no memory here.
    let done = unsafe {
        libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) == 0
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// One of a classic BPF program, which skips so many if a comparison fails.
fn instruction(code: u32, skip: u8, operand: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: skip, k: operand }
}

/// Follows it to its end. This must be the thread that started it.
pub(crate) fn follow(child: &Child, mut loaded: impl FnMut(String, String)) -> Result<()> {
    let group = -libc::pid_t::try_from(child.id())?;
    let mut calls = BTreeMap::new();
    let mut status = 0;
    loop {
        // SAFETY: the kernel writes an int to `status`.
        let pid = unsafe { libc::waitpid(group, &raw mut status, libc::__WALL) };
        if pid < 0 {
            return Ok(()); // All have ended.
        }
        if !libc::WIFSTOPPED(status) {
            continue;
        }
        let (mut signal, mut go_on) = (0, libc::PTRACE_CONT);
        match (libc::WSTOPSIG(status), status >> 16) {
            (libc::SIGTRAP, libc::PTRACE_EVENT_SECCOMP) => {
                if unless_killed(begun(pid, &mut calls))?.unwrap_or(false) {
                    go_on = libc::PTRACE_SYSCALL; // To the end of this call.
                }
            }
            (stop, _) if stop == libc::SIGTRAP | 0x80 => {
                unless_killed(ended(pid, &mut calls, &mut loaded))?;
            }
            (libc::SIGTRAP, _) => {
                // The exec, before which nothing is loaded, or a new thread.
                let options = libc::PTRACE_O_TRACESYSGOOD
                    | libc::PTRACE_O_TRACECLONE
                    | libc::PTRACE_O_TRACESECCOMP
                    | libc::PTRACE_O_EXITKILL;
                trace(libc::PTRACE_SETOPTIONS, pid, 0, options as usize)?;
            }
            (libc::SIGSTOP, _) => {} // So a new thread begins.
            (other, _) => signal = other,
        }
        // It may have been killed meanwhile.
        let _ = trace(go_on, pid, 0, signal.cast_unsigned() as usize);
    }
}

/// `None` if the thread is not there any more: at the end the process is killed, wherever its threads are.
fn unless_killed<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Err(error) if os_error(&error) == Some(libc::ESRCH) => Ok(None),
        other => other.map(Some),
    }
}

fn os_error(error: &anyhow::Error) -> Option<i32> {
    error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error)
}

/// A load that has begun, by thread.
type Calls = BTreeMap<libc::pid_t, ProgLoad>;

/// A thread is about to call bpf(2); whether it is a load, which now has a log.
fn begun(pid: libc::pid_t, calls: &mut Calls) -> Result<bool> {
    let info = info(pid)?;
    // SAFETY: at a stop of a seccomp filter this member of the union is the one that is set.
    let entry = unsafe { info.u.seccomp };
    if entry.args[0] != PROG_LOAD || entry.args[2] < size_of::<ProgLoad>() as u64 {
        return Ok(false);
    }
    let mut attr = ProgLoad::default();
    copy(pid, entry.args[1], as_bytes(&mut attr), Direction::Read)?;
    if attr.log_level != 0 {
        return Ok(false);
    }
    attr.log_level = LOG_STATS;
    attr.log_size = LOG_SIZE;
    attr.log_buf = (info.stack_pointer - BELOW) & !0xfff;
    copy(pid, entry.args[1], as_bytes(&mut attr), Direction::Write)?;
    calls.insert(pid, attr);
    Ok(true)
}

/// The load is done.
fn ended(
    pid: libc::pid_t,
    calls: &mut Calls,
    loaded: &mut impl FnMut(String, String),
) -> Result<()> {
    let info = info(pid)?;
    // SAFETY: `op` says that this member of the union is the one that is set.
    let succeeded =
        info.op == libc::PTRACE_SYSCALL_INFO_EXIT && unsafe { info.u.exit.is_error } == 0;
    if let (Some(attr), true) = (calls.remove(&pid), succeeded) {
        let mut log = vec![0; LOG_SIZE as usize];
        copy(pid, attr.log_buf, &mut log, Direction::Read)?;
        loaded(text(&attr.name), text(&log));
    }
    Ok(())
}

/// The system call at which a thread is stopped.
fn info(pid: libc::pid_t) -> Result<libc::ptrace_syscall_info> {
    // SAFETY: all zeros is a valid value of this struct of numbers.
    let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
    let size = size_of::<libc::ptrace_syscall_info>();
    trace(libc::PTRACE_GET_SYSCALL_INFO, pid, size, (&raw mut info) as usize)?;
    Ok(info)
}

/// Up to the first NUL.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn as_bytes(attr: &mut ProgLoad) -> &mut [u8] {
    // SAFETY: the struct is made of numbers without padding, and borrowed for as long as the slice is.
    unsafe {
        std::slice::from_raw_parts_mut(std::ptr::from_mut(attr).cast(), size_of::<ProgLoad>())
    }
}

enum Direction {
    Read,
    Write,
}

/// Copies between this process and the other one.
fn copy(pid: libc::pid_t, address: u64, bytes: &mut [u8], direction: Direction) -> Result<()> {
    let length = bytes.len();
    let ours = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: length };
    let theirs = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: length };
    // SAFETY: `ours` describes `bytes`, which is borrowed mutably; what is at `theirs` is the other process's.
    let done = unsafe {
        match direction {
            Direction::Read => {
                libc::process_vm_readv(pid, &raw const ours, 1, &raw const theirs, 1, 0)
            }
            Direction::Write => {
                libc::process_vm_writev(pid, &raw const ours, 1, &raw const theirs, 1, 0)
            }
        }
    };
    if usize::try_from(done).is_ok_and(|done| done == length) {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    Err(error).with_context(|| format!("copy from or to process {pid}"))
}

fn trace(request: libc::c_uint, pid: libc::pid_t, address: usize, data: usize) -> Result<()> {
    // SAFETY: of the requests made here only PTRACE_GET_SYSCALL_INFO writes: `address` bytes at `data`, which the
    // caller has borrowed mutably.
    let done = unsafe { libc::ptrace(request, pid, address, data) };
    if done < 0 {
        Err(io::Error::last_os_error()).with_context(|| format!("ptrace({request:#x}) of {pid}"))
    } else {
        Ok(())
    }
}
