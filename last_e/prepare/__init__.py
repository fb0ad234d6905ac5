"""From recordings and other projects' files to a prepared data file. Torch-free: numpy and safetensors."""
