//! The maps, and the only functions that change a count.

use aya_ebpf::{
    bindings::{BPF_EXIST, BPF_F_NO_PREALLOC, BPF_NOEXIST},
    helpers::bpf_ktime_get_boot_ns,
    macros::map,
    maps::{Array, HashMap, ProgramArray, RingBuf},
    programs::SockOpsContext,
};
use drainctl_common::{
    ServiceKey,
    record::Record,
    track::{Event, Flow, ServiceCounts, fault, next, watch},
};

use crate::{counter, placed};

/// Flows that are in no slot, by socket cookie. Sized by the agent (`--max-flows`).
#[map]
static FLOWS: HashMap<u64, Flow> = HashMap::with_max_entries(262_144, 0);

/// Counts of every service. Sized by the agent (`--max-services`).
#[map]
static SERVICES: HashMap<ServiceKey, ServiceCounts> =
    HashMap::with_max_entries(16_384, BPF_F_NO_PREALLOC);

/// Counters of `fault`, for the whole node.
#[map]
static FAULTS: Array<u64> = Array::with_max_entries(fault::COUNT, 0);

/// What the agent is told at once.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 16, 0);

/// Retire programs that go on where the tracker ends, at the indices of `next`.
#[map]
static NEXT: ProgramArray = ProgramArray::with_max_entries(next::COUNT, 0);

/// Drains under way, for the next agent; only agents use it.
#[map]
static DRAINS: HashMap<ServiceKey, Record> = HashMap::with_max_entries(16_384, BPF_F_NO_PREALLOC);

/// Services that something holds, for the next agent; only agents use it.
#[map]
static HOLDS: HashMap<ServiceKey, Record> = HashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

/// The mark of each service whose new connections are steered, for the next agent; only agents use it.
#[map]
static MARKED: HashMap<ServiceKey, u32> = HashMap::with_max_entries(16_384, BPF_F_NO_PREALLOC);

/// What a service starts with. In read-only data, since zeroing 56 bytes of stack is a loop on this target.
static NO_COUNTS: ServiceCounts = ServiceCounts {
    flows: 0,
    accepted: 0,
    lost: 0,
    last_new_ns: 0,
    last_peer: [0; 4],
    watch: 0,
    steer: 0,
};

/// Kernel error numbers, negative as helpers return them.
const EEXIST: i32 = -17;

/// What became of a flow that was to be counted.
pub(crate) enum Counted {
    /// It is counted now.
    New,
    /// It was counted already.
    Known,
    /// There is no room for it.
    NoRoom,
}

/// Boot time in nanoseconds.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// The counters of a service, if it has any.
#[inline(always)]
pub(crate) fn counts(service: &ServiceKey) -> Option<*mut ServiceCounts> {
    SERVICES.get_ptr_mut(service)
}

/// The counters of a service, made if it has none; `None` when the map is full.
#[inline(always)]
pub(crate) fn counts_or_new(service: &ServiceKey) -> Option<*mut ServiceCounts> {
    if let Some(counts) = counts(service) {
        return Some(counts);
    }
    // Another CPU may be faster: then the insert fails, and its entry is as good as ours.
    #[expect(
        clippy::needless_borrows_for_generic_args,
        reason = "a copy would be made on the stack"
    )]
    let _ = SERVICES.insert(service, &NO_COUNTS, u64::from(BPF_NOEXIST));
    let counts = counts(service);
    if counts.is_none() {
        fault(fault::SERVICES_FULL);
    }
    counts
}

/// Counts a flow, once. It is new, or in the place where it would be put now: see [`is_hashed`].
#[inline(always)]
pub(crate) fn count<const SLOTS: bool>(
    counts: *mut ServiceCounts,
    cookie: u64,
    flow: &Flow,
) -> Counted {
    let placed = if SLOTS { placed::put(cookie, flow) } else { None };
    // NOEXIST: overwriting an entry would hide a leak.
    let counted =
        placed.unwrap_or_else(|| match FLOWS.insert(cookie, flow, u64::from(BPF_NOEXIST)) {
            Ok(()) => Counted::New,
            Err(EEXIST) => Counted::Known,
            Err(_) => Counted::NoRoom,
        });
    if let Counted::New = counted {
        // SAFETY: `counts` points to a live map value.
        unsafe { add(&raw mut (*counts).flows, 1) };
    }
    counted
}

/// Whether a flow is in the hash map. Its slot was taken when it came, and may be free by now.
#[inline(always)]
pub(crate) fn is_hashed(cookie: u64) -> bool {
    FLOWS.get_ptr(cookie).is_some()
}

/// A flow found no room: until it is accounted for, the counts of its service are not to be trusted. Returns
/// how many flows of the service were lost so.
#[inline(always)]
pub(crate) fn lose(counts: *mut ServiceCounts) -> u64 {
    fault(fault::FLOWS_FULL);
    // SAFETY: `counts` points to a live map value.
    unsafe {
        counter::add(&raw mut (*counts).lost, 1);
        (*counts).lost
    }
}

/// Uncounts a flow that has ended, and returns under what it was counted; one that is not known is none of ours.
#[inline(always)]
pub(crate) fn uncount<const SLOTS: bool>(cookie: u64) -> Option<ServiceKey> {
    let placed = if SLOTS { placed::take(cookie) } else { None };
    let flow = placed.or_else(|| {
        let flow = copy(cookie)?;
        // Else somebody else was faster, and has uncounted it.
        FLOWS.remove(cookie).is_ok().then_some(flow)
    })?;
    if let Some(counts) = counts(&flow.service) {
        // SAFETY: `counts` points to a live map value.
        unsafe { add(&raw mut (*counts).flows, -1) };
        tell_if_empty(&flow.service, counts);
    }
    Some(flow.service)
}

/// Counts a flow in another class of its service; false if it is in it already, is not known, or found no
/// room. Only the agent moves flows, one at a time.
#[inline(always)]
pub(crate) fn move_to<const SLOTS: bool>(cookie: u64, class: u16) -> bool {
    let placed = if SLOTS { placed::get(cookie) } else { None };
    let Some(flow) = placed.or_else(|| copy(cookie)) else { return false };
    let moved = Flow { service: flow.service.of_class(class), ..flow };
    if moved.service.class == flow.service.class {
        return false;
    }
    let Some(to) = counts_or_new(&moved.service) else { return false };
    let is_moved = if placed.is_some() {
        placed::reclass(cookie, flow.service.class, class)
    } else {
        // EXIST: a flow that has ended meanwhile must not come back.
        FLOWS.insert(cookie, moved, u64::from(BPF_EXIST)).is_ok()
    };
    if !is_moved {
        return false;
    }
    // SAFETY: `to` points to a live map value.
    unsafe { add(&raw mut (*to).flows, 1) };
    if let Some(from) = counts(&flow.service) {
        // SAFETY: so does `from`.
        unsafe { add(&raw mut (*from).flows, -1) };
        tell_if_empty(&flow.service, from);
    }
    true
}

/// Reports an event if the agent wants to hear of such events of this service.
#[inline(always)]
pub(crate) fn tell(service: &ServiceKey, counts: *mut ServiceCounts, kind: u32, wanted: u32) {
    // SAFETY: `counts` points to a live map value.
    if unsafe { (&raw const (*counts).watch).read_volatile() } & wanted == 0 {
        return;
    }
    let event = Event { service: *service, kind, zero: 0, at_ns: now() };
    if EVENTS.output::<Event>(event, 0).is_err() {
        fault(fault::EVENTS_LOST);
    }
}

/// Goes on with the retire program at `index` of `next`. Does not return; but if there is none, it does.
#[inline(always)]
pub(crate) fn go_on(ctx: &SockOpsContext, index: u32) {
    // SAFETY: nothing here waits to be dropped, and the program takes the same context.
    unsafe { NEXT.tail_call(ctx, index) };
}

/// Counts something that went wrong.
#[inline(always)]
pub(crate) fn fault(index: u32) {
    if let Some(counter) = FAULTS.get_ptr_mut(index) {
        counter::add(counter, 1);
    }
}

/// Adds to a signed counter.
///
/// # Safety
/// `counter` points into a live map value.
#[inline(always)]
pub(crate) unsafe fn add(counter: *mut i64, delta: i64) {
    counter::add(counter.cast(), delta as u64);
}

#[inline(always)]
fn copy(cookie: u64) -> Option<Flow> {
    // SAFETY: the value is plain data, and copied. The entry may be removed meanwhile and its memory hold
    // another flow: then the copy is nonsense, but the caller cannot remove the entry again, and drops it.
    unsafe { FLOWS.get(cookie) }.copied()
}

#[inline(always)]
fn tell_if_empty(service: &ServiceKey, counts: *mut ServiceCounts) {
    // SAFETY: `counts` points to a live map value. Of two CPUs that uncount at once, the later one reads
    // the sum of both.
    if unsafe { (&raw const (*counts).flows).read_volatile() } <= 0 {
        tell(service, counts, Event::EMPTY, watch::FLOWS);
    }
}
