"""The GPU worker: takes jobs from RunPod, renders them, uploads the file, reports key, size and checksum."""
