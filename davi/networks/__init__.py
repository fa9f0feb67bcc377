"""Networks beside ADM's: called as (x_t, t) -> (B, >= C, H, W), with int64 times."""
