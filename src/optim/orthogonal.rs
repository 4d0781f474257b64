//! The nearest orthogonal matrix, about, by products of matrices alone: what Muon makes of a leaf's
//! direction.
//!
//! A matrix G = U·Σ·Vᵀ has singular values of all sizes, and the step that treats all its
//! directions alike is U·Vᵀ. A singular value decomposition would find it and is slow. An odd
//! polynomial of a matrix acts on its singular values one by one,
//!
//! ```text
//! p(X) = a·X + (b·A + c·A²)·X,  A = X·Xᵀ      makes of every singular value s    a·s + b·s³ + c·s⁵
//! ```
//!
//! so that a polynomial which pushes all of (0, 1] towards 1, applied a few times, does as well and
//! needs products only. With (3.4445, −4.7750, 2.0315) five steps bring what is above some 0.0015
//! to between 0.68 and 1.21, which is as good as 1 for a step. A singular value of 0.1 followed
//! through: it becomes 0.340, then 0.992, 0.707, 1.107, 0.712. It does not settle, and it does not
//! have to.
//!
//! G is divided by its Frobenius norm first, which is at least its greatest singular value, and a
//! tall matrix is transposed, since A is smaller by the short side.
//!
//! The products are written out here. ndarray's `dot` runs kernels with fused multiplications where
//! the CPU has them and others where it has not, and its bits depend on that. Here every element of
//! a product is one sum in the order of the inner index, rounded after each product and each sum,
//! whatever the vector width, the blocks and the number of threads: `tests/optim/muon.rs` compares
//! the bits with three plain loops.

use crate::element::FlatElement;
use crate::error::Result;
use crate::memory;
use crate::ops::{self, dispatch};
use crate::threads;

/// Rows of a tile of the product: so many sums run side by side that no addition waits for the
/// last.
const TILE_ROWS: usize = 6;

/// Columns of a tile: the widest registers hold as many.
const TILE_COLUMNS: usize = 16;

/// Rows that one thread takes at a time.
const BAND: usize = 8 * TILE_ROWS;

/// Inner indices that are gone through before the next tile, so that the columns of the right
/// factor stay in the L1 cache.
const DEPTH: usize = 256;

/// What the iteration is made of.
#[derive(Clone, Copy)]
pub(super) struct NewtonSchulz<E> {
    pub(super) coefficients: (E, E, E),
    pub(super) steps: u32,
    /// The least norm that is divided by.
    pub(super) eps: f64,
}

impl<E: FlatElement> NewtonSchulz<E> {
    /// Replaces a matrix of this many rows and columns, in row-major order.
    ///
    /// # Errors
    /// No memory for three matrices more.
    pub(super) fn orthogonalize(self, rows: usize, columns: usize, matrix: &mut [E]) -> Result<()> {
        let norm = ops::norm_l2(matrix);
        // Not `max`, which has eps where the norm is NaN.
        let divisor = if norm < self.eps { self.eps } else { norm };
        for x in &mut *matrix {
            *x = E::from_f64((*x).into() / divisor);
        }
        if rows <= columns {
            return self.iterate(rows, columns, matrix);
        }
        let mut wide = memory::try_zeroed(matrix.len())?;
        transpose(matrix, rows, columns, &mut wide);
        self.iterate(columns, rows, &mut wide)?;
        transpose(&wide, columns, rows, matrix);
        Ok(())
    }

    /// Of a matrix that is not taller than wide.
    fn iterate(self, rows: usize, columns: usize, x: &mut [E]) -> Result<()> {
        let (a, b, c) = self.coefficients;
        let mut transposed = memory::try_zeroed(x.len())?;
        let mut gram: Vec<E> = memory::try_zeroed(rows * rows)?;
        let mut polynomial: Vec<E> = memory::try_zeroed(rows * rows)?;
        // X ← a·X + (b·G + c·G²)·X with G = X·Xᵀ.
        for _ in 0..self.steps {
            transpose(x, rows, columns, &mut transposed);
            product(x, &transposed, rows, columns, rows, &mut gram);
            product(&gram, &gram, rows, rows, rows, &mut polynomial);
            for (square, first) in polynomial.iter_mut().zip(&gram) {
                *square = b * *first + c * *square;
            }
            // The transposed is not needed any more, and has the room.
            product(&polynomial, x, rows, rows, columns, &mut transposed);
            for (x, product) in x.iter_mut().zip(&transposed) {
                *x = a * *x + *product;
            }
        }
        Ok(())
    }
}

/// Writes the transposed of a matrix of this many rows and columns.
fn transpose<E: FlatElement>(from: &[E], rows: usize, columns: usize, to: &mut [E]) {
    // Square blocks, so that neither side runs through memory in strides for long.
    const BLOCK: usize = 32;
    for top in (0..rows).step_by(BLOCK) {
        for left in (0..columns).step_by(BLOCK) {
            for row in top..rows.min(top + BLOCK) {
                for column in left..columns.min(left + BLOCK) {
                    to[column * rows + row] = from[row * columns + column];
                }
            }
        }
    }
}

/// Rows of the product that one thread makes.
struct Band<'m, E> {
    left: &'m [E],
    product: &'m mut [E],
}

/// `left` of `rows` × `inner`, times `right` of `inner` × `columns`.
fn product<E: FlatElement>(
    left: &[E],
    right: &[E],
    rows: usize,
    inner: usize,
    columns: usize,
    product: &mut [E],
) {
    debug_assert_eq!(product.len(), rows * columns);
    product.fill(E::zero());
    if inner == 0 || columns == 0 {
        return;
    }
    let bands_of_left = left.chunks(BAND * inner);
    let bands_of_product = product.chunks_mut(BAND * columns);
    let bands = bands_of_left.zip(bands_of_product);
    let bands = bands.map(|(left, product)| Band { left, product });
    let mut bands: Vec<Band<'_, E>> = bands.collect();
    let sizes = (inner, columns);
    threads::share(
        &mut bands,
        // A product and a sum take a fraction of what copying an element does.
        |band| band.left.len() / 8 * columns,
        |band| dispatch::run(Multiply, band.left, right, (&mut *band.product, sizes)),
    );
}

struct Multiply;

impl<E: FlatElement> dispatch::Kernel<&[E], &[E], (&mut [E], (usize, usize))> for Multiply {
    type Output = ();

    #[inline(always)]
    fn run(left: &[E], right: &[E], (product, (inner, columns)): (&mut [E], (usize, usize))) {
        let mut packed = [[E::zero(); TILE_COLUMNS]; DEPTH];
        for start in (0..inner).step_by(DEPTH) {
            let depth = DEPTH.min(inner - start);
            for column in (0..columns).step_by(TILE_COLUMNS) {
                let width = TILE_COLUMNS.min(columns - column);
                // A tile's columns one after the other, filled up with zeros.
                for (k, packed) in packed[..depth].iter_mut().enumerate() {
                    let row = (start + k) * columns + column;
                    *packed = [E::zero(); TILE_COLUMNS];
                    packed[..width].copy_from_slice(&right[row..row + width]);
                }
                let tiles = left
                    .chunks(TILE_ROWS * inner)
                    .zip(product.chunks_mut(TILE_ROWS * columns));
                for (left, product) in tiles {
                    tile(
                        (left, inner, start),
                        &packed[..depth],
                        (product, columns, column),
                        width,
                    );
                }
            }
        }
    }
}

/// Goes on with the sums of one tile, by the inner indices that are packed.
#[inline(always)]
fn tile<E: FlatElement>(
    (left, inner, start): (&[E], usize, usize),
    packed: &[[E; TILE_COLUMNS]],
    (product, columns, column): (&mut [E], usize, usize),
    width: usize,
) {
    let rows = left.len() / inner;
    // Rows that are not there count as the first one, and are dropped.
    let row_of = |row: usize| if row < rows { row } else { 0 };
    let mut sums = [[E::zero(); TILE_COLUMNS]; TILE_ROWS];
    let mut factors = [[E::zero(); TILE_ROWS]; DEPTH];
    for row in 0..TILE_ROWS {
        let from = row_of(row) * inner + start;
        for (factors, &factor) in factors.iter_mut().zip(&left[from..from + packed.len()]) {
            factors[row] = factor;
        }
        let from = row_of(row) * columns + column;
        sums[row][..width].copy_from_slice(&product[from..from + width]);
    }
    // Lists of one row after the other, so that the loop has no bounds to check and keeps all sums
    // in registers.
    for (factors, right) in factors.iter().zip(packed) {
        for row in 0..TILE_ROWS {
            for i in 0..TILE_COLUMNS {
                sums[row][i] += factors[row] * right[i];
            }
        }
    }
    for (row, sums) in sums.iter().enumerate().take(rows) {
        let from = row * columns + column;
        product[from..from + width].copy_from_slice(&sums[..width]);
    }
}
