#!/bin/sh
# Makes the buckets that are not there yet; SeaweedFS refuses to make one twice.
set -eu
weed_shell() { weed shell -master=s3:9333 -filer=s3:8888; }

there=$(echo s3.bucket.list | weed_shell)
for bucket in incoming library uploads; do
    echo "$there" | grep -q "^ *$bucket[[:space:]]" || echo "s3.bucket.create -name $bucket" | weed_shell
done
