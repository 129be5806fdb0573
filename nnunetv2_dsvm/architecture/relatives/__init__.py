"""The neighbours of VM-UNet, one file a network."""
