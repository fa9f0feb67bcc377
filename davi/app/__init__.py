"""The page of `davi app`: a photograph in the browser, restored on this machine."""
