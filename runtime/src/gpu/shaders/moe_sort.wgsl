// Slots sorted by expert, and cut into tiles: mirrors the counting sort of `Executor::route` of exec/moe.rs. A slot is a
// pair of a token and one of its experts, token * top + place. One workgroup.
//
// The slots of an expert stay in ascending order. Its tiles have TILE slots, the last one what is left.

struct Params {
    experts: u32,
    top: u32,
    ids: u32,       // arena: [rows][top], u32
    order: u32,     // arena: [rows * top], u32: slots sorted by expert
    starts: u32,    // arena: [experts + 1], u32: where each expert's slots start in `order`
    tiles: u32,     // arena: [tiles][2], u32: expert, first place in `order`
    blocks_in: u32,   // workgroups along x of the products with gate and up
    blocks_out: u32,  // of those with down
}

@group(0) @binding(2) var<uniform> p: Params;
// Workgroups of both products: x, y, z each, 4 words apart.
@group(2) @binding(0) var<storage, read_write> sizes: array<u32>;

const TILE = 32u;
const THREADS = 256u;

var<workgroup> counts: array<u32, 1024>;  // [expert][part] of slots; then where they go in `order`
var<workgroup> ends: array<u32, 1024>;    // [expert]: end in `order`
var<workgroup> tiles: array<u32, 1024>;   // [expert]: first tile

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) me: u32) {
    // Every expert's slots are counted in `parts` parts of the tokens by as many invocations.
    let slots = call.rows * p.top;
    let parts = max(THREADS / p.experts, 1u);
    let share = (slots + parts - 1u) / parts;
    for (var i = me; i < p.experts * parts; i += THREADS) {
        let expert = i / parts;
        let first = i % parts * share;
        var n = 0u;
        for (var slot = first; slot < min(slots, first + share); slot++) {
            n += u32(arena[p.ids + slot] == expert);
        }
        counts[i] = n;
    }
    workgroupBarrier();
    if me == 0u {
        var place = 0u;
        var tile = 0u;
        for (var expert = 0u; expert < p.experts; expert++) {
            arena[p.starts + expert] = place;
            tiles[expert] = tile;
            let before = place;
            for (var part = 0u; part < parts; part++) {
                let n = counts[expert * parts + part];
                counts[expert * parts + part] = place;
                place += n;
            }
            ends[expert] = place;
            tile += (place - before + TILE - 1u) / TILE;
        }
        arena[p.starts + p.experts] = place;
        sizes[0] = p.blocks_in;
        sizes[1] = tile;
        sizes[2] = 1u;
        sizes[4] = p.blocks_out;
        sizes[5] = tile;
        sizes[6] = 1u;
    }
    workgroupBarrier();
    for (var i = me; i < p.experts * parts; i += THREADS) {
        let expert = i / parts;
        let first = i % parts * share;
        var place = counts[i];
        if i % parts == 0u {
            var tile = tiles[expert];
            for (var next = place; next < ends[expert]; next += TILE) {
                arena[p.tiles + 2u * tile] = expert;
                arena[p.tiles + 2u * tile + 1u] = next;
                tile++;
            }
        }
        for (var slot = first; slot < min(slots, first + share); slot++) {
            if arena[p.ids + slot] == expert {
                arena[p.order + place] = slot;
                place++;
            }
        }
    }
}
