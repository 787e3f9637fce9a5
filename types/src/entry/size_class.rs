//! The bytes that an allocation really takes.

/// The bytes that jemalloc hands out for a request of `bytes`: its size classes are 8, then the multiples of 16 up to
/// 128, then four to each doubling (160, 192, 224, 256, 320, ...). Every byte count that is accounted is rounded by it.
///
/// The rule is that of jemalloc's `size_classes.h` with a quantum of 16 bytes.
pub const fn size_class(bytes: usize) -> usize {
    match bytes {
        0 => 0,
        1..=8 => 8,
        9..=128 => (bytes + 15) & !15,
        _ => {
            let spacing = 1 << ((bytes - 1).ilog2() - 2);
            (bytes + spacing - 1) & !(spacing - 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::size_class;

    /// The table of jemalloc's manual, "Size classes".
    const CLASSES: &[usize] = &[
        8, 16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 896, 1024, 1280, 1536,
        1792, 2048, 2560, 3072, 3584, 4096, 5120, 6144, 7168, 8192, 10240, 12288, 14336, 16384, 20480, 24576, 28672,
        32768, 40960, 49152, 57344, 65536, 81920, 98304, 114688, 131072,
    ];

    #[test]
    fn every_request_gets_the_smallest_class_that_holds_it() {
        assert_eq!(size_class(0), 0);
        let mut class = 0;
        for bytes in 1..=*CLASSES.last().unwrap() {
            if bytes > CLASSES[class] {
                class += 1;
            }
            assert_eq!(size_class(bytes), CLASSES[class], "{bytes} bytes");
        }
        assert_eq!(size_class((512 << 20) + 1), 640 << 20);
    }
}
