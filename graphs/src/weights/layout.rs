//! The packed layouts: where every byte of a weight matrix lies in a bundle.
//!
//! # Matrix, row-block, block
//!
//! A matrix of `rows x k` weights (output rows, input elements) is cut into *row-blocks* of [`ROWS`] = 16 rows, and a
//! row-block into *blocks* along K, of [`block_k`] elements each. Both cuts are padded: rows to a multiple of 16,
//! K to a multiple of `block_k`. Blocks follow each other along K, row-blocks follow each other, nothing lies between
//! them, so a kernel reads one contiguous stream:
//!
//! ```text
//! matrix     [row-block 0: rows 0..16][row-block 1: rows 16..32] ...  [zeros to a multiple of 64 B]
//! row-block  [block 0: k 0..block_k][block 1: k block_k..2 block_k] ...
//! ```
//!
//! A stack of matrices (the experts, `[E, rows, k]`) is E such matrices one after another, each padded on its own:
//! matrix e starts at `e * packed_bytes(format, rows, k)`. Every matrix starts at a multiple of [`ALIGN`] = 64 bytes.
//! All numbers are little-endian; no field needs more alignment than its own bytes, because readers load bytes.
//!
//! # Floats: 16 rows x 1 k
//!
//! ```text
//! f32   64 B   [row 0][row 1] ... [row 15]   f32 each, all of one k
//! f16   32 B   [row 0][row 1] ... [row 15]   f16 each, all of one k
//! ```
//!
//! A f16 row-block of odd k is 32 bytes short of a cache line; only the end of the matrix is padded to 64 bytes.
//! A depthwise convolution kernel `[H, taps]` is a f32 matrix of H rows and k = taps.
//!
//! # Quads
//!
//! In the quantised layouts a *quad* is four consecutive elements along K of one row: one dword. A 64-byte *vector*
//! holds the same quad of all 16 rows:
//!
//! ```text
//! byte   0..4     4..8    ...   60..64
//!       row 0    row 1          row 15
//! ```
//!
//! # q8_0: 16 rows x 64 k (two groups of 32), 1088 B
//!
//! ```text
//! offset    0   32   scale[g = 0][row]   f16
//!          32   32   scale[g = 1][row]   f16
//!          64  512   g = 0: vectors j = 0..8; byte 4 row + i of vector j is element 4 j + i of the group, i8
//!         576  512   g = 1: the same
//! ```
//!
//! Value: `scale * q`.
//!
//! # q4_0: 16 rows x 64 k (two groups of 32), 576 B
//!
//! ```text
//! offset    0   32   scale[g = 0][row]   f16
//!          32   32   scale[g = 1][row]   f16
//!          64  256   g = 0: vectors j = 0..4; byte 4 row + i of vector j holds element 4 j + i of the group in its low
//!                    nibble and element 16 + 4 j + i in its high nibble
//!         320  256   g = 1: the same
//! ```
//!
//! Value: `scale * (nibble - 8)`. The pairing of nibbles is that of the canonical form, so packing moves whole dwords.
//!
//! # q6_k: 16 rows x 256 k (eight groups of 32, each two halves of 16), 3392 B
//!
//! In the order in which a kernel reads it: the scales of two groups, then these groups.
//!
//! ```text
//! offset    0   64   d[row]   f32, the canonical f16 widened
//!          64  832   pair p = 0: groups 0 and 1
//!         896  832   pair p = 1: groups 2 and 3
//!        1728  832   pair p = 2: groups 4 and 5
//!        2560  832   pair p = 3: groups 6 and 7
//!
//! pair      0   64   sub[g][h][row]   i8, byte 32 g + 16 h + row: scale of half h of group g of the pair
//!          64  384   g = 0
//!         448  384   g = 1
//!
//! group     0  128   hi: 2 vectors; byte 4 row + i of vector p holds bits 4 and 5 of element 16 p + 4 f + i
//!                    of the group at bit 2 f, f = 0..4
//!         128  256   lo: 4 vectors; byte 4 row + i of vector j holds bits 0-3 of element 4 j + i in its low nibble
//!                    and of element 16 + 4 j + i in its high nibble
//! ```
//!
//! Value: `d * sub * (q - 32)` with the six-bit q.
//!
//! # q4_k: 16 rows x 256 k (eight groups of 32), 2368 B
//!
//! Like q6_k in the order of reading. The six-bit scales and minima of the canonical form get a byte each.
//!
//! ```text
//! offset    0   32   d[row]      f16
//!          32   32   dmin[row]   f16
//!          64  576   pair p = 0: groups 0 and 1
//!         640  576   pair p = 1: groups 2 and 3
//!        1216  576   pair p = 2: groups 4 and 5
//!        1792  576   pair p = 3: groups 6 and 7
//!
//! pair      0   64   sc[g = 0][row], m[g = 0][row], sc[g = 1][row], m[g = 1][row]   u8, 0..64
//!          64  256   g = 0: as a group of q4_0
//!         320  256   g = 1: the same
//! ```
//!
//! Value: `d * sc * q - dmin * m` with the nibble q.
//!
//! # q5_k: 16 rows x 256 k (eight groups of 32), 2880 B
//!
//! q4_k with longer groups: a pair has 704 bytes.
//!
//! ```text
//! group     0   64   hi: 1 vector; bit j of byte 4 row + i is bit 4 of element 4 j + i of the group, j = 0..8
//!          64  256   lo: bits 0-3, as a group of q4_0
//! ```
//!
//! Value: `d * sc * q - dmin * m` with the five-bit q.
//!
//! # Padding
//!
//! Padding has the value zero and one defined byte pattern: scales, minima, d, dmin and sub are 0; the code is the one of
//! value zero (q4_0 nibble 8, q6_k q = 32, else 0); floats are +0. So look a row-block's padding rows, and every group
//! (q6_k, q4_k, q5_k: block) of a row that lies past K. A unit that K cuts is stored as it is: it keeps its scales, and
//! its elements past K have the codes of the canonical unit (which a quantiser sets to that of value zero). No product
//! depends on them, because activations past K are zero.

use super::format::Format;

/// Rows in a row-block.
pub const ROWS: usize = 16;

/// Every packed matrix starts at, and is padded to, a multiple of this many bytes.
pub const ALIGN: usize = 64;

/// Elements along K that share one activation scale, and one link of the f32 chain of a dot product.
pub const GROUP: usize = 32;

/// Offsets and sizes inside a q4_0 block, in bytes.
pub mod q4_0 {
    /// K of one block.
    pub const K: usize = 64;
    /// Groups of 32 in one block.
    pub const GROUPS: usize = 2;
    /// First group's codes; the scales `[2 groups][16 rows]` lie before.
    pub const CODES: usize = 64;
    /// Codes of one group: 4 vectors of 64 bytes.
    pub const GROUP_BYTES: usize = 256;
    /// One block.
    pub const BYTES: usize = CODES + GROUPS * GROUP_BYTES;
    /// What a stored nibble exceeds its integer value by.
    pub const OFFSET: u8 = 8;
}

/// Offsets and sizes inside a q8_0 block, in bytes.
pub mod q8_0 {
    /// K of one block.
    pub const K: usize = 64;
    /// Groups of 32 in one block.
    pub const GROUPS: usize = 2;
    /// First group's codes; the scales `[2 groups][16 rows]` lie before.
    pub const CODES: usize = 64;
    /// Codes of one group: 8 vectors of 64 bytes.
    pub const GROUP_BYTES: usize = 512;
    /// One block.
    pub const BYTES: usize = CODES + GROUPS * GROUP_BYTES;
}

/// Offsets and sizes inside a q6_k block, in bytes.
pub mod q6_k {
    /// K of one block.
    pub const K: usize = 256;
    /// Pairs of groups in one block.
    pub const PAIRS: usize = 4;
    /// First pair; `d[16]` as f32 lies before.
    pub const PAIR_0: usize = 64;
    /// Within a pair: first group; `sub[2 groups][2 halves][16 rows]` lies before.
    pub const PAIR_GROUPS: usize = 64;
    /// Within a group: bits 4 and 5, 2 vectors.
    pub const HI: usize = 0;
    /// Within a group: bits 0-3, 4 vectors.
    pub const LO: usize = 128;
    /// One group: `hi` and `lo`.
    pub const GROUP_BYTES: usize = 384;
    /// One pair: sub-scales and two groups.
    pub const PAIR_BYTES: usize = PAIR_GROUPS + 2 * GROUP_BYTES;
    /// One block.
    pub const BYTES: usize = PAIR_0 + PAIRS * PAIR_BYTES;
    /// What a stored code exceeds its integer value by.
    pub const OFFSET: u8 = 32;
}

/// Offsets and sizes inside a q4_k block, in bytes.
pub mod q4_k {
    /// K of one block.
    pub const K: usize = 256;
    /// Pairs of groups in one block.
    pub const PAIRS: usize = 4;
    /// The scale of the minima, `dmin[16]` as f16; `d[16]` as f16 lies before.
    pub const DMIN: usize = 32;
    /// First pair; `d` and `dmin` lie before.
    pub const PAIR_0: usize = 64;
    /// Within a pair: first group; `[2 groups][sc, m][16 rows]`, a byte each, lies before.
    pub const PAIR_GROUPS: usize = 64;
    /// One group: 4 vectors, as in q4_0.
    pub const GROUP_BYTES: usize = 256;
    /// One pair: scales, minima and two groups.
    pub const PAIR_BYTES: usize = PAIR_GROUPS + 2 * GROUP_BYTES;
    /// One block.
    pub const BYTES: usize = PAIR_0 + PAIRS * PAIR_BYTES;
}

/// Offsets and sizes inside a q5_k block, in bytes.
pub mod q5_k {
    /// K of one block.
    pub const K: usize = 256;
    /// Pairs of groups in one block.
    pub const PAIRS: usize = 4;
    /// The scale of the minima, `dmin[16]` as f16; `d[16]` as f16 lies before.
    pub const DMIN: usize = 32;
    /// First pair; `d` and `dmin` lie before.
    pub const PAIR_0: usize = 64;
    /// Within a pair: first group; `[2 groups][sc, m][16 rows]`, a byte each, lies before.
    pub const PAIR_GROUPS: usize = 64;
    /// Within a group: bit 4, 1 vector.
    pub const HI: usize = 0;
    /// Within a group: bits 0-3, 4 vectors, as in q4_0.
    pub const LO: usize = 64;
    /// One group: `hi` and `lo`.
    pub const GROUP_BYTES: usize = LO + 256;
    /// One pair: scales, minima and two groups.
    pub const PAIR_BYTES: usize = PAIR_GROUPS + 2 * GROUP_BYTES;
    /// One block.
    pub const BYTES: usize = PAIR_0 + PAIRS * PAIR_BYTES;
}

const _: () = assert!(q4_0::BYTES == 576 && q8_0::BYTES == 1088 && q6_k::BYTES == 3392);
const _: () = assert!(q4_k::BYTES == 2368 && q5_k::BYTES == 2880);

/// Elements along K in one block.
pub const fn block_k(format: Format) -> usize {
    match format {
        Format::F32 | Format::F16 => 1,
        Format::Q8_0 => q8_0::K,
        Format::Q4_0 => q4_0::K,
        Format::Q6K => q6_k::K,
        Format::Q4K => q4_k::K,
        Format::Q5K => q5_k::K,
    }
}

/// Bytes of one block (16 rows x [`block_k`] elements).
pub const fn block_bytes(format: Format) -> usize {
    match format {
        Format::F32 => 4 * ROWS,
        Format::F16 => 2 * ROWS,
        Format::Q8_0 => q8_0::BYTES,
        Format::Q4_0 => q4_0::BYTES,
        Format::Q6K => q6_k::BYTES,
        Format::Q4K => q4_k::BYTES,
        Format::Q5K => q5_k::BYTES,
    }
}

/// Blocks along K in a row-block of `k` elements.
pub const fn blocks(format: Format, k: usize) -> usize {
    k.div_ceil(block_k(format))
}

/// Row-blocks in a matrix of `rows` rows.
pub const fn row_blocks(rows: usize) -> usize {
    rows.div_ceil(ROWS)
}

/// `k` rounded up to whole blocks; `None` on overflow.
pub const fn packed_k(format: Format, k: usize) -> Option<usize> {
    blocks(format, k).checked_mul(block_k(format))
}

/// Bytes of one row-block (16 rows x k); `None` on overflow.
pub const fn row_block_bytes(format: Format, k: usize) -> Option<usize> {
    blocks(format, k).checked_mul(block_bytes(format))
}

/// Bytes of a packed matrix, padded to a multiple of [`ALIGN`]; `None` on overflow.
pub const fn packed_bytes(format: Format, rows: usize, k: usize) -> Option<u64> {
    let blocks = match (row_blocks(rows) as u64).checked_mul(blocks(format, k) as u64) {
        Some(blocks) => blocks,
        None => return None,
    };
    match blocks.checked_mul(block_bytes(format) as u64) {
        Some(bytes) => bytes.checked_next_multiple_of(ALIGN as u64),
        None => None,
    }
}

/// Bytes of a stack of `count` packed matrices, each `rows x k`; `None` on overflow.
pub const fn stack_bytes(format: Format, count: usize, rows: usize, k: usize) -> Option<u64> {
    match packed_bytes(format, rows, k) {
        Some(bytes) => bytes.checked_mul(count as u64),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_real_matrices() {
        // One expert projection of the 8B model: as many bytes as in canonical form, because nothing is padded.
        assert_eq!(packed_bytes(Format::Q4_0, 1792, 2048), Some(1792 * 1152));
        assert_eq!(packed_bytes(Format::Q8_0, 512, 2048), Some(512 * 64 * 34));
        assert_eq!(packed_bytes(Format::Q6K, 65536, 2048), Some(65536 / 16 * 8 * 3392));
        assert_eq!(packed_bytes(Format::Q4K, 1792, 2048), Some(1792 / 16 * 8 * 2368));
        assert_eq!(packed_bytes(Format::Q5K, 512, 2048), Some(512 / 16 * 8 * 2880));
        assert_eq!(packed_bytes(Format::F32, 2048, 3), Some(2048 * 3 * 4));
        assert_eq!(stack_bytes(Format::Q4_0, 32, 1792, 2048), Some(32 * 1792 * 1152));
    }

    #[test]
    fn padding_rounds_rows_and_k_up() {
        assert_eq!(packed_bytes(Format::Q4_0, 1, 1), Some(576));
        assert_eq!(packed_bytes(Format::Q4_0, 17, 65), Some(4 * 576));
        assert_eq!(packed_bytes(Format::F16, 5, 3), Some(128));
        assert_eq!(packed_bytes(Format::F16, 33, 3), Some(320));
        assert_eq!(row_block_bytes(Format::F16, 3), Some(96));
        assert_eq!(packed_bytes(Format::F32, 0, 7), Some(0));
        assert_eq!(packed_k(Format::Q6K, 300), Some(512));
    }

    #[test]
    fn overflow_is_none() {
        for format in Format::ALL {
            assert_eq!(packed_bytes(format, usize::MAX, usize::MAX), None);
            assert_eq!(row_block_bytes(format, usize::MAX), None);
            assert_eq!(stack_bytes(format, usize::MAX, 1 << 20, 1 << 20), None);
        }
    }
}
