// What the shaders of attention share: parameters and the cache.

struct Params {
    q: u32,         // arena: [rows][heads][dim]
    k: u32,         // arena: [rows][kv][dim]
    v: u32,         // the same
    out: u32,       // arena: [rows][heads][dim]
    kv: u32,
    group: u32,     // heads of one key head
    dim: u32,
    window: u32,    // positions that a query sees, its own included
    splits: u32,    // most workgroups that divide the positions of one row; 1: they are not divided
    partial: u32,   // arena: what these leave, [splits][heads][dim] weighted sums, [splits][heads] maximum and sum
    scale: f32,
}

@group(0) @binding(2) var<uniform> p: Params;
@group(2) @binding(0) var<storage, read_write> keys: array<vec4<u32>>;    // [kv][context][dim padded to 8], f16 or f32
@group(2) @binding(1) var<storage, read_write> values: array<vec4<u32>>;  // the same

// Whether the cache is f16.
override HALF: bool = true;

// Positions of a share are a multiple of this, if there are several shares.
const SHARE = 256u;

// Into how many shares n positions are divided.
fn shares(n: u32) -> u32 {
    return clamp((n + SHARE - 1u) / SHARE, 1u, p.splits);
}
