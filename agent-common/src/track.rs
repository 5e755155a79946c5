//! Maps and events of the tracker, the `sock_ops` program that counts the flows of every service.

use crate::ServiceKey;

/// One accepted TCP connection; value of the `FLOWS` map, keyed by socket cookie, or part of a [`Slot`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The service that accepted it.
    pub service: ServiceKey,
    /// Boot time in nanoseconds when it was established, or adopted if [`Flow::ADOPTED`] is set.
    pub since_ns: u64,
    /// [`Flow::ADOPTED`], [`Flow::END_UNSEEN`].
    pub flags: u32,
    /// Always zero.
    pub zero: u32,
}

impl Flow {
    /// It was there before the tracker, and came from the iterator.
    pub const ADOPTED: u32 = 1;
    /// The kernel will not tell when it ends (no `TCP_BPF_SOCK_OPS_CB_FLAGS`): only a look can.
    pub const END_UNSEEN: u32 = 2;
}

/// A place for one flow: value of the `SLOTS` array, at the index that the lower bits of its socket cookie say. The kernel
/// hands out cookies one after the other (`sock_gen_cookie`), so that flows that begin one after the other share cache lines.
/// What finds its slot taken is in `FLOWS`; no flow is in both.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Whose it is: see [`Slot::owner`]. 0: nobody's. Changed by compare-and-exchange only.
    pub owner: u64,
    /// The flow. The class of its service is always 0: the owner has it.
    pub flow: Flow,
}

impl Slot {
    /// A bit of the owner: the flow is being written, and counts as not there yet.
    pub const BUSY: u64 = 1 << 63;
    /// Most slots that there are.
    pub const MOST: u32 = 65_536;
    /// Bits of the owner that are the cookie. At a million sockets a second the kernel needs two thousand years for more.
    const COOKIE: u64 = (1 << Self::CLASS) - 1;
    /// Where those of the class begin.
    const CLASS: u32 = 56;

    /// The owner of the slot that has the flow with this cookie, of this [`class`](crate::class).
    #[inline(always)]
    pub const fn owner(cookie: u64, class: u16) -> u64 {
        (cookie & Self::COOKIE) | (class as u64) << Self::CLASS
    }

    /// The class of the flow with this cookie, if this is the owner of its slot.
    #[inline(always)]
    pub const fn class(owner: u64, cookie: u64) -> Option<u16> {
        let is = owner & (Self::COOKIE | Self::BUSY) == cookie;
        if is { Some((owner >> Self::CLASS) as u16) } else { None }
    }

    /// The flow that is in it, and its cookie.
    #[inline(always)]
    pub const fn get(&self) -> Option<(u64, Flow)> {
        let cookie = self.owner & Self::COOKIE;
        match Self::class(self.owner, cookie) {
            Some(class) if cookie != 0 => {
                Some((cookie, Flow { service: self.flow.service.of_class(class), ..self.flow }))
            }
            _ => None,
        }
    }
}

/// Counters of one service; value of the `SERVICES` map. Changed in the kernel by atomic adds.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceCounts {
    /// Flows now: ESTABLISHED, CLOSE_WAIT, FIN_WAIT1, CLOSING, LAST_ACK.
    pub flows: i64,
    /// Connections ever accepted.
    pub accepted: u64,
    /// Connections accepted that found no room, neither in `SLOTS` nor in `FLOWS`: while any is unaccounted for, the
    /// counts above are not to be trusted.
    pub lost: u64,
    /// Boot time in nanoseconds of the newest accepted connection; 0 if none came.
    pub last_new_ns: u64,
    /// IPv6 (or v4-mapped) address of the newest accepted connection, network byte order. Written
    /// without a lock: a hint for logs.
    pub last_peer: [u32; 4],
    /// What the agent wants to be told of, a set of [`watch`] bits. Only the `repair` program sets it:
    /// a write of the whole value from user space would undo counts.
    pub watch: u32,
    /// Which mark the flows have that the gate gave to another listener in the drain of this service: those
    /// of [`class::STEERED`](crate::class::STEERED). 0: none. Set as `watch` is.
    pub steer: u32,
}

/// Something the tracker tells the agent at once, over the ring buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Where it happened.
    pub service: ServiceKey,
    /// One of the `Event::` constants.
    pub kind: u32,
    /// Always zero.
    pub zero: u32,
    /// Boot time in nanoseconds.
    pub at_ns: u64,
}

impl Event {
    /// The last flow of a watched service has ended.
    pub const EMPTY: u32 = 1;
    /// A watched service has accepted a connection.
    pub const ACCEPTED: u32 = 2;
    /// A socket of a watched service started to listen (`listen(2)`).
    pub const LISTENING: u32 = 3;
    /// A listening socket of a watched service was closed.
    pub const UNLISTENED: u32 = 4;
}

/// What is reported for a service: a set of these bits.
pub mod watch {
    /// Report [`super::Event::LISTENING`] and [`super::Event::UNLISTENED`].
    pub const LISTENERS: u32 = 1;
    /// Report [`super::Event::EMPTY`] and [`super::Event::ACCEPTED`].
    pub const FLOWS: u32 = 2;
    /// Have each new connection followed by the retire programs.
    pub const JOIN: u32 = 4;
    /// Tell the classes of new connections apart: the service has a drain.
    pub const CLASSES: u32 = 8;
    /// Some clients are treated by their address: see the `PEERS` map.
    pub const LISTS: u32 = 16;
    /// Remember in the `CLIENTS` map whose connections begin; whose end is remembered of every service.
    pub const CLIENTS: u32 = 32;
}

/// Programs that the tracker calls when it is done; indices into its `NEXT` array.
pub mod next {
    /// A service with [`super::watch::JOIN`] has accepted a connection.
    pub const ACCEPTED: u32 = 0;
    /// A connection has ended. Filled only while anything retires.
    pub const ENDED: u32 = 1;
    /// How many there are.
    pub const COUNT: u32 = 2;
}

/// Counters of things that went wrong for the whole node; indices into the `FAULTS` array.
pub mod fault {
    /// A connection was accepted while `FLOWS` was full.
    pub const FLOWS_FULL: u32 = 0;
    /// A connection was accepted while `SERVICES` was full.
    pub const SERVICES_FULL: u32 = 1;
    /// An event found no room in the ring buffer.
    pub const EVENTS_LOST: u32 = 2;
    /// The network namespace of a socket could not be read.
    pub const NO_NETNS: u32 = 3;
    /// How many there are.
    pub const COUNT: u32 = 4;
}

/// One order to the `repair` program, passed as its packet (`BPF_PROG_TEST_RUN`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repair {
    /// Room for the Ethernet header that `BPF_PROG_TEST_RUN` takes off the front.
    pub ethernet: [u8; 14],
    /// Always zero.
    pub zero: [u8; 2],
    /// The service whose counters are to be mended.
    pub service: ServiceKey,
    /// Move this flow to the class of `service`, or uncount it: see `remove`. 0 for none.
    pub cookie: u64,
    /// Added to [`ServiceCounts::flows`].
    pub flows: i64,
    /// What is reported of the service from now on, a set of [`watch`] bits; [`Repair::KEEP`] changes nothing.
    pub watch: u32,
    /// Not 0: the flow is gone.
    pub remove: u32,
    /// The service's [`ServiceCounts::steer`] from now on; [`Repair::KEEP`] changes nothing.
    pub steer: u32,
    /// Always zero.
    pub zero2: u32,
}

impl Repair {
    /// An order as the program reads it.
    pub const fn new(service: ServiceKey) -> Self {
        Self {
            ethernet: [0; 14],
            zero: [0; 2],
            service,
            cookie: 0,
            flows: 0,
            watch: Self::KEEP,
            remove: 0,
            steer: Self::KEEP,
            zero2: 0,
        }
    }

    /// Leaves [`ServiceCounts::watch`] or [`ServiceCounts::steer`] as it is.
    pub const KEEP: u32 = u32::MAX;
}

const _: () = assert!(size_of::<Flow>() == 24);
const _: () = assert!(size_of::<Slot>() == 32);
const _: () = assert!(size_of::<ServiceCounts>() == 56);
const _: () = assert!(size_of::<Event>() == 24);
const _: () = assert!(size_of::<Repair>() == 56);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::class;

    #[test]
    fn a_slot_has_the_flow_that_owns_it() {
        let flow = Flow { service: ServiceKey::new(7, 80), since_ns: 1, flags: 0, zero: 0 };
        let of = |owner| Slot { owner, flow };
        let owner = Slot::owner(0x1_0005, class::STEERED);
        let steered = Flow { service: flow.service.of_class(class::STEERED), ..flow };
        assert_eq!(of(owner).get(), Some((0x1_0005, steered)));
        assert_eq!(Slot::class(owner, 0x1_0005), Some(class::STEERED));
        assert_eq!(Slot::class(owner, 0x2_0005), None, "another one of the same place");
        assert_eq!((of(0).get(), of(owner | Slot::BUSY).get()), (None, None));
        assert_eq!(Slot::class(owner | Slot::BUSY, 0x1_0005), None);
    }
}
