"""The forms in which one student can run on a device, each written, held against torch, timed, and chosen from."""
