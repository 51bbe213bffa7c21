// Connect a user's Zoom account, schedule a meeting, and delete it.
package main

import (
	"context"
	_ "embed"
	"fmt"
	"iter"
	"net"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	zoomgatev1 "zoomgate.dev/examples/go/gen/zoomgate/v1"
)

//go:generate buf generate
//go:generate cp ../../proto/zoomgate/v1/service_config.json gen/

//go:embed gen/service_config.json
var serviceConfig string

// dial returns a channel that retries calls, detects lost connections, and sends the caller's key.
func dial(target, key string) (*grpc.ClientConn, error) {
	transport := credentials.NewTLS(nil) // the certificate authorities of the system
	host, _, _ := net.SplitHostPort(target)
	local := host == "localhost" || net.ParseIP(host).IsLoopback()
	if local {
		transport = insecure.NewCredentials()
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
	}
	if key != "" {
		options = append(options, grpc.WithPerRPCCredentials(callerKey{key, !local}))
	}
	return grpc.NewClient(target, options...)
}

type callerKey struct {
	key string
	tls bool
}

func (c callerKey) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + c.key}, nil
}

func (c callerKey) RequireTransportSecurity() bool { return c.tls }

// errorInfo returns the reason and the metadata of an error, or nil if the error is not from Zoomgate.
func errorInfo(err error) *errdetails.ErrorInfo {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.Domain == "zoomgate" {
			return info
		}
	}
	return nil
}

// resumable returns whether a watch that ended with the error can be resumed: the service is unavailable, has too many watches, or a proxy
// reset the stream.
func resumable(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.Canceled, codes.ResourceExhausted:
		return true
	case codes.Internal, codes.Unknown:
		return errorInfo(err) == nil
	default:
		return false
	}
}

// watch returns the events of users. It resumes an interrupted stream after the last event, and ends the stream with the loop.
// If the service cannot be reached before the first event, it returns the error.
func watch(
	ctx context.Context, auth zoomgatev1.AuthServiceClient, users ...string,
) iter.Seq2[*zoomgatev1.WatchConnectionsResponse, error] {
	return func(yield func(*zoomgatev1.WatchConnectionsResponse, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		request := &zoomgatev1.WatchConnectionsRequest{UserEmails: users}
		for {
			stream, err := auth.WatchConnections(ctx, request)
			for err == nil {
				var event *zoomgatev1.WatchConnectionsResponse
				if event, err = stream.Recv(); err == nil {
					request.ResumeToken = event.ResumeToken
					if !yield(event, nil) {
						return
					}
				}
			}
			switch {
			case errorInfo(err).GetReason() == "RESUME_TOKEN_EXPIRED":
				request.ResumeToken = "" // the stream starts again with a snapshot
			case ctx.Err() == nil && request.ResumeToken != "" && resumable(err):
				select {
				case <-time.After(time.Second):
				case <-ctx.Done():
				}
			default:
				yield(nil, err)
				return
			}
		}
	}
}

// connect prints the URL with which the user consents, and returns when the user is connected.
func connect(ctx context.Context, auth zoomgatev1.AuthServiceClient, user string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute) // the URL is valid for 10 minutes
	defer cancel()
	authorized := false
	for event, err := range watch(ctx, auth, user) {
		if err != nil {
			return err
		}
		fmt.Println(event.Type)
		if event.Connection.GetState() == zoomgatev1.Connection_STATE_ACTIVE {
			return nil
		}
		if event.Type == zoomgatev1.WatchConnectionsResponse_TYPE_SYNCED && !authorized {
			begun, err := auth.BeginAuthorization(ctx, &zoomgatev1.BeginAuthorizationRequest{UserEmail: user})
			if err != nil {
				return err
			}
			fmt.Printf("%s must open this URL: %s\n", user, begun.AuthorizationUrl)
			authorized = true
		}
	}
	return nil
}

func run(ctx context.Context, target, key, user string) error {
	channel, err := dial(target, key)
	if err != nil {
		return err
	}
	defer channel.Close()
	if err := connect(ctx, zoomgatev1.NewAuthServiceClient(channel), user); err != nil {
		return err
	}

	meetings := zoomgatev1.NewMeetingsServiceClient(channel)
	created, err := meetings.CreateMeeting(ctx, &zoomgatev1.CreateMeetingRequest{
		UserEmail:      user,
		MeetingDetails: &zoomgatev1.MeetingDetails{Topic: proto.String("Planning"), DurationMinutes: proto.Int32(45)},
	})
	if err != nil {
		return err
	}
	id := created.Meeting.Id
	fmt.Printf("created meeting %d: %s\n", id, created.Meeting.JoinUrl)

	if _, err := meetings.DeleteMeeting(ctx, &zoomgatev1.DeleteMeetingRequest{UserEmail: user, MeetingId: id}); err != nil {
		return err
	}
	_, err = meetings.GetMeeting(ctx, &zoomgatev1.GetMeetingRequest{UserEmail: user, MeetingId: id})
	if info := errorInfo(err); info == nil || info.Reason != "MEETING_NOT_FOUND" {
		return fmt.Errorf("the meeting still exists: %w", err)
	}
	fmt.Println("deleted the meeting")
	return nil
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: go run . EMAIL")
		os.Exit(1)
	}
	target := os.Getenv("ZOOMGATE_SERVER")
	if target == "" {
		target = "127.0.0.1:50051"
	}
	if err := run(context.Background(), target, os.Getenv("ZOOMGATE_KEY"), os.Args[1]); err != nil {
		if info := errorInfo(err); info != nil {
			fmt.Fprintf(os.Stderr, "%s: %s\n", info.Reason, status.Convert(err).Message())
		} else {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
}
