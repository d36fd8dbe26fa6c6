/*
 * Runs LymphInfer on the open image, or inside its selected annotations, and imports the nuclei.
 *
 * LymphInfer must be installed on this machine. Written for QuPath 0.5 to 0.7. See README.md.
 */
import qupath.lib.common.GeneralTools
import qupath.lib.io.PathIO
import qupath.lib.projects.Projects

import static qupath.lib.gui.scripting.QPEx.*

// ---- Settings ------------------------------------------------------------------------------

// The command; QuPath does not see a virtual environment that a terminal has activated, so name the
// program in it, such as '/home/me/lymphinfer/bin/lymphinfer' or 'C:\\lymphinfer\\Scripts\\lymphinfer.exe'.
String lymphinfer = 'lymphinfer'

// Further options of `lymphinfer predict`, such as ['--bundle', 'he-v1', '--device', 'cuda'].
List<String> options = []

// Only inside the selected annotations; the whole image where none is selected.
boolean onlySelection = true

// Pass QuPath's pixel size on, for an image whose file has none or a wrong one.
boolean usePixelSizeOfQuPath = false

// ---- Work ----------------------------------------------------------------------------------

def imageData = getCurrentImageData()
if (imageData == null) {
    println 'Open an image first.'
    return
}
def server = imageData.getServer()
def slide = server.getURIs().collect { GeneralTools.toPath(it) }.find { it != null }
if (slide == null) {
    println 'The open image is not a file on this machine.'
    return
}
def annotations = onlySelection ? getSelectedObjects().findAll { it.isAnnotation() && it.getROI().isArea() } : []
// PROJECT_BASE_DIR is a text that only an open project can resolve.
def base = getProject() == null ? slide.getParent().toFile() : Projects.getBaseDirectory(getProject())
def out = new File(base, annotations ? 'lymphinfer-selection' : 'lymphinfer')
out.mkdirs()

def command = [lymphinfer, 'predict', slide.toString(), '--out', out.toString()] + options
if (usePixelSizeOfQuPath)
    command += ['--mpp', server.getPixelCalibration().getAveragedPixelSizeMicrons().toString()]
if (annotations) {
    def roi = new File(out, GeneralTools.stripExtension(slide.getFileName().toString()) + '-selection.geojson').toString()
    exportObjectsToGeoJson(annotations, roi, 'FEATURE_COLLECTION', 'EXCLUDE_MEASUREMENTS')
    command += ['--roi', roi]
}
println command.join(' ')

def process
try {
    process = new ProcessBuilder(command.collect { it.toString() }).start()
} catch (IOException e) {
    println "Cannot start ${lymphinfer} (${e.message}). Set the full path of the program at the top of this script."
    return
}
process.getOutputStream().close()
def messages = Collections.synchronizedList([])
def reader = Thread.start {
    process.getErrorStream().eachLine('UTF-8') { line ->
        messages << line
        println line
    }
}
// The one thing on its standard output is the file for QuPath.
def lines = process.getInputStream().readLines('UTF-8').findAll { !it.isBlank() }
int code = process.waitFor()
reader.join()
if (code != 0 || lines.isEmpty()) {
    println "lymphinfer ended with code ${code}; nothing was imported. Its last words: ${messages.takeRight(3).join(' ')}"
    return
}

def file = new File(lines[-1].trim())
def objects = PathIO.readObjects(file)
def hierarchy = imageData.getHierarchy()
def old = hierarchy.getDetectionObjects().findAll { nucleus ->
    def place = nucleus.getROI()
    !Double.isNaN(nucleus.getMeasurementList().get('Detection probability')) &&
            (!annotations || annotations.any { it.getROI().contains(place.getCentroidX(), place.getCentroidY()) })
}
hierarchy.removeObjects(old, true)
hierarchy.addObjects(objects)
println "${objects.size()} nuclei from ${file}"
