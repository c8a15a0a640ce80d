"""The rooms of the appliance that its programs share, and the control plane."""
