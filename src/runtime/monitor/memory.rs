//! Giving back what a monitor needed to begin and does not need to wait: there may be hundreds of them.

/// Lets go of the program's pages that can be read again from its file, and of freed memory.
///
/// Starting a sandbox runs through much code once; waiting runs through little, which comes back as it is needed.
pub(super) fn give_back() {
    // SAFETY: the callback is called only during the call, and looks at what it is given; it needs no data.
    unsafe { libc::dl_iterate_phdr(Some(let_go), std::ptr::null_mut()) };
    #[cfg(target_env = "gnu")]
    // SAFETY: it only returns free memory to the kernel.
    unsafe {
        libc::malloc_trim(0);
    }
}

unsafe extern "C" fn let_go(object: *mut libc::dl_phdr_info, _: usize, _: *mut libc::c_void) -> libc::c_int {
    // SAFETY: the loader gives a valid object, whose headers are as many as it says.
    let (base, headers) = unsafe {
        let object = &*object;
        let count = usize::from(object.dlpi_phnum);
        (object.dlpi_addr, std::slice::from_raw_parts(object.dlpi_phdr, count))
    };
    const PAGE: u64 = 4096;
    for header in
        headers.iter().filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0)
    {
        let start = (base + header.p_vaddr).next_multiple_of(PAGE);
        let end = (base + header.p_vaddr + header.p_memsz) / PAGE * PAGE;
        if start < end {
            // SAFETY: a mapping of a file that nothing here can write: its pages are read again when they are used.
            // Where the machine's pages are larger the call fails, and nothing is given back.
            unsafe { libc::madvise(start as *mut libc::c_void, (end - start) as usize, libc::MADV_DONTNEED) };
        }
    }
    0
}
