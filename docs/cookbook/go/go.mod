module example.test/hello-go

go 1.21
