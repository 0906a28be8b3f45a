module keep.dev/signalled

go 1.21
