// Initiates the replica set of compose.yaml and sets the password of the service's user. Can be repeated.
const password = (name) => require("fs").readFileSync(`/run/secrets/${name}`, "utf8").trim();
const root = `mongodb://root:${encodeURIComponent(password("mongodb-root-password"))}@`;
const hosts = ["mongodb-1:27017", "mongodb-2:27017", "mongodb-3:27017"];

const first = connect(`${root}${hosts[0]}/admin?directConnection=true`);
try {
  first.adminCommand({ replSetGetStatus: 1 });
} catch (error) {
  if (error.codeName !== "NotYetInitialized") throw error;
  first.adminCommand({ replSetInitiate: { _id: "rs0", members: hosts.map((host, _id) => ({ _id, host })) } });
}

const primary = connect(`${root}${hosts}/admin?replicaSet=rs0&w=majority`);
const user = { pwd: password("mongodb-zoomgate-password"), roles: [{ role: "readWrite", db: "zoomgate" }] };
if (primary.getUser("zoomgate")) primary.updateUser("zoomgate", user);
else primary.createUser({ user: "zoomgate", ...user });
