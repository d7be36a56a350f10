// One packed matrix, or a stack: [row-block][block], a vec4 being one dword of each of four rows.
@group(1) @binding(0) var<storage, read> w: array<vec4<u32>>;

// Word `at` of matrix m (there is only one).
fn word(m: u32, at: u32) -> vec4<u32> {
    return w[at];
}

