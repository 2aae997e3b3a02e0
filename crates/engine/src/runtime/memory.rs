//! What the allocator should know: parameters are allocated once and read for as long as the model lives,
//! activations are allocated and freed with every batch.

/// Makes room for `additional` elements, without more in reserve.
///
/// A large vector is on huge pages where the system has them (Linux, unless transparent huge pages are set to
/// `never`). Its first use then costs hundreds of times fewer page faults, and reading it at random fewer
/// misses of the TLB.
pub(crate) fn reserve<T>(values: &mut Vec<T>, additional: usize) {
    values.reserve_exact(additional);
    #[cfg(target_os = "linux")]
    {
        const PAGE: usize = 4096;
        const HUGE_PAGE: usize = 2 << 20;
        let start = values.as_ptr() as usize;
        let end = start + values.capacity() * size_of::<T>();
        let (first, last) = (start.next_multiple_of(PAGE), end / PAGE * PAGE);
        if last.saturating_sub(first) >= 2 * HUGE_PAGE {
            // SAFETY: advice about whole pages inside the allocation, which changes no contents. That it fails
            // costs time, nothing else.
            unsafe { libc::madvise(first as *mut libc::c_void, last - first, libc::MADV_HUGEPAGE) };
        }
    }
}

/// Lets activations be allocated where those of the batch before were, by telling the C library's allocator
/// what size of block this process uses and frees all the time.
///
/// glibc maps blocks above a threshold, 128 KiB at first, by a system call each, and returns them likewise: then
/// every page of every activation faults in again with each batch. The threshold rises to the size of the
/// largest such block that was freed, up to 32 MiB, and what is freed at the end of the heap is kept up to twice
/// that (mallopt(3), M_MMAP_THRESHOLD). So one block of that size is allocated and freed, without its memory
/// being touched. Other allocators do not mind.
pub fn keep_freed_memory() {
    const LARGEST: usize = (32 << 20) - (64 << 10);
    drop(std::hint::black_box(Vec::<u8>::with_capacity(LARGEST)));
}
