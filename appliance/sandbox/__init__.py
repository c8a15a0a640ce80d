"""Where untrusted code runs. What it prints is not the verdict: outputs leave, others decide."""
