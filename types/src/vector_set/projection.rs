//! Projections: vectors of many components as vectors of fewer, which keep most of their distances.
//!
//! Component `i` of the result is the sum of all components `j`, with the sign that the parity of the bits of `i & j` gives: a
//! row of a Hadamard matrix. So the matrix need not be stored, and is the one that Redis makes. A set that was imported with
//! another matrix keeps that.

use crate::{Malformed, heap};

/// Components that are computed side by side.
const BLOCK: usize = 64;

/// The signs of a row's components in a block of columns, by the lower bits of both.
static SIGNS: [[f32; BLOCK]; BLOCK] = {
    let mut signs = [[1.0; BLOCK]; BLOCK];
    let mut j = 0;
    while j < BLOCK {
        let mut i = 0;
        while i < BLOCK {
            if (i & j).count_ones() % 2 == 1 {
                signs[j][i] = -1.0;
            }
            i += 1;
        }
        j += 1;
    }
    signs
};

#[derive(Clone, Debug, PartialEq)]
pub struct Projection {
    from: u32,
    /// Rows of `from` factors, for a matrix that is not made of signs.
    matrix: Option<Box<[f32]>>,
}

impl Projection {
    /// A projection of vectors with `from` components.
    pub fn new(from: u32) -> Self {
        Self { from, matrix: None }
    }

    /// A projection by a matrix, whose rows have `from` factors; one for each of `to` components.
    ///
    /// # Errors
    /// When the matrix has another size.
    pub fn by_matrix(from: u32, to: u32, matrix: Vec<f32>) -> Result<Self, Malformed> {
        if from == 0 || to > from || matrix.len() as u64 != u64::from(from) * u64::from(to) {
            return Err(Malformed("projection of a vector set"));
        }
        let scale = scale(from);
        let is_made_of_signs = matrix
            .chunks(from as usize)
            .zip(0..)
            .all(|(row, i)| row.iter().zip(0..).all(|(x, j)| *x == sign(i, j) * scale));
        Ok(Self { from, matrix: (!is_made_of_signs).then(|| matrix.into()) })
    }

    /// The number of components of a vector that is projected.
    pub fn from(&self) -> u32 {
        self.from
    }

    /// The factors, if they are not the usual signs.
    pub fn matrix(&self) -> Option<&[f32]> {
        self.matrix.as_deref()
    }

    /// All factors of a projection to `to` components, row by row.
    pub fn factors(&self, to: u32) -> impl Iterator<Item = f32> + '_ {
        let (scale, from) = (scale(self.from), self.from);
        (0..to).flat_map(move |i| {
            (0..from).map(move |j| match &self.matrix {
                Some(matrix) => matrix[i as usize * from as usize + j as usize],
                None => sign(i, j) * scale,
            })
        })
    }

    pub fn apply(&self, input: &[f32], to: u32) -> Vec<f32> {
        if let Some(matrix) = &self.matrix {
            let rows = matrix.chunks(self.from as usize);
            return rows.map(|row| row.iter().zip(input).fold(0.0, |sum, (factor, x)| sum + factor * x)).collect();
        }
        let scale = scale(self.from);
        let mut output = Vec::with_capacity(to as usize);
        for base in (0..to).step_by(BLOCK) {
            let width = BLOCK.min((to - base) as usize);
            let mut sums = [0.0; BLOCK];
            for (x, j) in input.iter().zip(0u32..) {
                let x = x * scale * sign(base, j);
                let signs = &SIGNS[j as usize % BLOCK];
                sums[..width].iter_mut().zip(signs).for_each(|(sum, sign)| *sum += x * sign);
            }
            output.extend_from_slice(&sums[..width]);
        }
        output
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.matrix.as_ref().map_or(0, |matrix| heap::allocation(size_of_val::<[f32]>(matrix)))
    }
}

fn scale(from: u32) -> f32 {
    (1.0 / f64::from(from).sqrt()) as f32
}

fn sign(i: u32, j: u32) -> f32 {
    if (i & j).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_projection_is_the_product_with_its_matrix() {
        let mut random = fastrand::Rng::with_seed(3);
        for (from, to) in [(1, 1), (3, 2), (70, 65), (300, 200), (300, 64)] {
            let input: Vec<f32> = (0..from).map(|_| random.f32() - 0.5).collect();
            let made = Projection::new(from);
            let factors: Vec<f32> = made.factors(to).collect();
            let product: Vec<f32> = factors
                .chunks(from as usize)
                .map(|row| row.iter().zip(&input).fold(0.0, |sum, (factor, x)| sum + factor * x))
                .collect();
            assert_eq!(made.apply(&input, to), product);
            assert_eq!(Projection::by_matrix(from, to, factors.clone()).unwrap(), made, "it is recognized");
            let other: Vec<f32> = factors.iter().map(|factor| factor * 2.0).collect();
            let other = Projection::by_matrix(from, to, other).unwrap();
            let twice: Vec<f32> = product.iter().map(|x| x * 2.0).collect();
            assert_eq!(other.apply(&input, to), twice);
        }
        assert!(Projection::by_matrix(3, 2, vec![0.0; 5]).is_err());
        assert!(Projection::by_matrix(2, 3, vec![0.0; 6]).is_err());
    }
}
