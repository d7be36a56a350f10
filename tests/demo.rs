//! The demo checkpoint: its goldens, and what each recipe costs in perplexity.
