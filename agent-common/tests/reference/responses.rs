//! The rules for following responses once more, with all the memory that a kernel program has not: used by
//! the tests and by fuzz/.

use drainctl_common::http1::{Followed, Responses};

/// A message, and whether it is fresh.
pub(crate) type Message<'a> = (bool, &'a [u8]);

/// Follows a message as the kernel program does. Returns where heads end in it.
pub(crate) fn follow(responses: &mut Responses, (fresh, message): Message<'_>) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut at = 0;
    responses.begin(fresh);
    while at < message.len() {
        let skipped = responses.skip((message.len() - at) as u32) as usize;
        at += skipped;
        assert!(at <= message.len(), "no more than there is");
        if skipped == 0 {
            at += 1;
            if responses.push(message[at - 1]) == Followed::HeadEnd {
                let head = usize::from(responses.head().length());
                let here = head - usize::from(responses.head_bytes_before());
                assert!(here <= at, "the head begins in an earlier message, or here");
                ends.push(at);
            }
        }
    }
    responses.end();
    ends
}
