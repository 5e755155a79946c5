//! As much of the ELF format as it takes to see that the linker made what we asked for.

use anyhow::{Context as _, Result, ensure};

/// `EM_BPF` of elf.h.
const MACHINE_BPF: u16 = 247;
/// `PT_INTERP`: the program is started by a dynamic loader.
const SEGMENT_INTERP: u32 = 3;

/// The header of a 64-bit ELF file in this machine's byte order.
#[derive(Debug)]
pub(crate) struct Header {
    machine: u16,
    interpreted: bool,
}

impl Header {
    /// Reads it.
    ///
    /// # Errors
    /// The file is no 64-bit ELF file, or is cut short.
    pub(crate) fn read(file: &[u8]) -> Result<Self> {
        ensure!(file.starts_with(b"\x7fELF\x02"), "it is no 64-bit ELF file");
        let machine = u16::from_ne_bytes(bytes(file, 18)?);
        let table = usize::try_from(u64::from_ne_bytes(bytes(file, 32)?))?;
        let size = usize::from(u16::from_ne_bytes(bytes(file, 54)?));
        let count = usize::from(u16::from_ne_bytes(bytes(file, 56)?));
        let mut interpreted = false;
        for index in 0..count {
            let segment = u32::from_ne_bytes(bytes(file, table.saturating_add(index * size))?);
            interpreted |= segment == SEGMENT_INTERP;
        }
        Ok(Self { machine, interpreted })
    }

    /// Whether it is for the kernel.
    pub(crate) fn is_bpf(&self) -> bool {
        self.machine == MACHINE_BPF
    }

    /// For which processor it is, as `EM_…` of elf.h.
    pub(crate) fn machine(&self) -> u16 {
        self.machine
    }

    /// Whether it runs without any other file.
    pub(crate) fn is_static(&self) -> bool {
        !self.interpreted
    }
}

fn bytes<const N: usize>(file: &[u8], at: usize) -> Result<[u8; N]> {
    let found = file.get(at..).and_then(|rest| rest.first_chunk::<N>());
    found.copied().context("the ELF file is cut short")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(machine: u16, segments: &[u32]) -> Vec<u8> {
        let mut file = vec![0; 64];
        file[..5].copy_from_slice(b"\x7fELF\x02");
        file[18..20].copy_from_slice(&machine.to_ne_bytes());
        file[32..40].copy_from_slice(&64_u64.to_ne_bytes());
        file[54..56].copy_from_slice(&56_u16.to_ne_bytes());
        file[56..58].copy_from_slice(&(segments.len() as u16).to_ne_bytes());
        for segment in segments {
            file.extend(segment.to_ne_bytes());
            file.extend([0; 52]);
        }
        file
    }

    #[test]
    fn an_object_for_the_kernel_is_recognized() {
        assert!(Header::read(&file(247, &[])).expect("a header").is_bpf());
        assert!(!Header::read(&file(62, &[])).expect("a header").is_bpf());
    }

    #[test]
    fn a_program_with_a_loader_is_not_static() {
        assert!(Header::read(&file(62, &[1, 6])).expect("a header").is_static());
        assert!(!Header::read(&file(62, &[1, 3])).expect("a header").is_static());
    }

    #[test]
    fn other_files_are_refused() {
        assert!(Header::read(b"").is_err());
        assert!(Header::read(b"#!/bin/sh\nexit 0\n").is_err());
        let error = Header::read(&file(62, &[1])[..66]).expect_err("the segment is cut off");
        assert!(error.to_string().contains("cut short"), "{error}");
    }
}
