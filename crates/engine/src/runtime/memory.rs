//! Memory for parameters, which is allocated once and read for as long as the model lives.

/// Makes room for `additional` elements, without more in reserve.
///
/// A large vector is on huge pages where the system has them (Linux, unless transparent huge pages are set to
/// `never`). Its first use then costs hundreds of times fewer page faults, and reading it at random fewer
/// misses of the TLB.
pub(crate) fn reserve(values: &mut Vec<f32>, additional: usize) {
    values.reserve_exact(additional);
    #[cfg(target_os = "linux")]
    {
        const PAGE: usize = 4096;
        const HUGE_PAGE: usize = 2 << 20;
        let start = values.as_ptr() as usize;
        let end = start + values.capacity() * size_of::<f32>();
        let (first, last) = (start.next_multiple_of(PAGE), end / PAGE * PAGE);
        if last.saturating_sub(first) >= 2 * HUGE_PAGE {
            // SAFETY: advice about whole pages inside the allocation, which changes no contents. That it fails
            // costs time, nothing else.
            unsafe { libc::madvise(first as *mut libc::c_void, last - first, libc::MADV_HUGEPAGE) };
        }
    }
}
