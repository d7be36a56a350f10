// Arithmetic of the device. Where it fuses fma, and rounds as IEEE 754 says, the bits are those of the CPU.

// a * b + c, rounded once if the device does.
fn fused(a: f32, b: f32, c: f32) -> f32 {
    return fma(a, b, c);
}

fn fused4(a: vec4<f32>, b: vec4<f32>, c: vec4<f32>) -> vec4<f32> {
    return fma(a, b, c);
}

// a / b, rounded to nearest: a device may divide with an error of some ulp.
fn divide(a: f32, b: f32) -> f32 {
    let r = 1.0 / b;
    let q = a * r;
    return fma(fma(-q, b, a), r, q);
}

fn divide4(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
    let r = 1.0 / b;
    let q = a * r;
    return fma(fma(-q, b, a), r, q);
}

// The square root.
fn root(x: f32) -> f32 {
    return sqrt(x);
}

// a * b, rounded to an integer, ties to even.
fn nearest4(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
    return round(a * b);
}

