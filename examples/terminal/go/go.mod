module loyalty.laurel/examples/terminal

go 1.25.0

require (
	google.golang.org/genproto v0.0.0-20260414002931-afd174a4e478
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260414002931-afd174a4e478
	google.golang.org/grpc v1.82.1
	google.golang.org/protobuf v1.36.12
	loyalty.laurel/sdk/go v0.0.0
)

require (
	golang.org/x/net v0.53.0 // indirect
	golang.org/x/sys v0.43.0 // indirect
	golang.org/x/text v0.36.0 // indirect
	google.golang.org/genproto/googleapis/api v0.0.0-20260414002931-afd174a4e478 // indirect
)

// What `make clients` generates.
replace loyalty.laurel/sdk/go => ../../../sdk/go
